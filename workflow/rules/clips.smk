# Dataset index → manifest and shard plan → decoded clips.
#
# A ledger is a log here: Snakemake removes the outputs of a failed job, and a shard that failed is just the one
# whose ledger somebody wants to read.


checkpoint index:
    input:
        index=[] if CONFIG.clips.index == "demo" else CONFIG.clips.index,
    output:
        manifest=update("results/clips/manifest.parquet"),
        plan=update("results/clips/shards.json"),
    log:
        text="results/logs/index.log",
        ledger="results/clips/index.ledger.parquet",
    benchmark:
        "results/benchmarks/index.tsv"
    params:
        settings=settings(
            "clips.index",
            "clips.fps",
            "clips.duration",
            "clips.size",
            "clips.shard_size",
            "clips.shot_threshold",
            "clips.timeout",
        ),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm index --config results/config.yaml --manifest {output.manifest:q} --plan {output.plan:q}"
        " --ledger {log.ledger:q} --log {log.text:q}"


rule decode:
    input:
        manifest=ancient("results/clips/manifest.parquet"),
    output:
        clips="results/clips/{shard}.tar",
    log:
        text="results/logs/decode/{shard}.log",
        ledger="results/clips/{shard}.ledger.parquet",
    benchmark:
        "results/benchmarks/decode/{shard}.tsv"
    params:
        settings=settings("clips.fps", "clips.image", "clips.decoder"),
        shard=shard_plan,
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm decode --config results/config.yaml --manifest {input.manifest:q} --shard {wildcards.shard:q}"
        " --output {output.clips:q} --ledger {log.ledger:q} --log {log.text:q}"
