# Coefficients → the flow model.


rule train_model:
    input:
        plan=ancient("results/clips/shards.json"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
        decoder=DECODER,
        empty=EMPTY,
    output:
        made(MODEL),
    log:
        "results/logs/train.log",
    benchmark:
        "results/benchmarks/train.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("model", "training", "flow", "seed"),
        results=results_folder,
        metrics=lambda wildcards, input: results_folder(wildcards, input) / METRICS,
    threads: threads_for(CONFIG.training.processes)
    resources:
        mem_mb=growing(16000),
        runtime=1440,  # tried again, it goes on where it was
        gpu=CONFIG.training.nodes * CONFIG.training.processes,
        **on_nodes(CONFIG.training.nodes, CONFIG.training.processes),
    conda:
        "../../envs/vlfm.yaml"
    # exec: a signal to the job reaches the trainer itself, which saves and ends with 143.
    shell:
        "exec vlfm train --config {params.config:q} --plan {input.plan:q}"
        " --coefficients {params.results:q}/coefficients --decoder {params.results:q}/decoder"
        " --output {params.results:q}/model"
        " --checkpoints {params.results:q}/checkpoints --metrics {params.metrics:q}"
        " --empty-caption {params.results:q}/captions/empty.safetensors --threads {threads} --log {log:q}"
