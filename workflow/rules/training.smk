# Coefficients → the flow model.


rule train_model:
    input:
        plan=ancient("results/clips/shards.json"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
        decoder="results/decoder/decoder.json",
        empty=["results/captions/empty.safetensors"] if CONFIG.training.caption_dropout else [],
    output:
        "results/model/training.json",
    log:
        "results/logs/train.log",
    benchmark:
        "results/benchmarks/train.tsv"
    params:
        settings=settings("model", "training", "flow", "seed"),
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
        "exec vlfm train --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"
