# Coefficients → the flow model.


rule train_model:
    input:
        plan=ancient("results/clips/shards.json"),
        coefficients=shards("results/coefficients/{shard}.tar"),
        moments=shards("results/coefficients/{shard}.json"),
    output:
        "results/model/training.json",
    log:
        "results/logs/train.log",
    benchmark:
        "results/benchmarks/train.tsv"
    params:
        settings=settings("model", "training", "flow", "seed"),
    threads: 16
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm train --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"
