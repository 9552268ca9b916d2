# Index files (drawn, where they are moving digits) → manifest and shard plan → decoded clips.
#
# A ledger is a log here: Snakemake removes the outputs of a failed job, and a shard that failed is just the one
# whose ledger somebody wants to read.


rule make_digits:
    output:
        made([DRAWN]),
    log:
        "results/logs/make_digits.log",
    benchmark:
        "results/benchmarks/make_digits.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("clips.digits", "clips.fps", "clips.duration", "clips.size", "seed"),
        table=lambda wildcards, output: Path(output[0], "digits.csv" if STORED else ""),
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm make-digits --config {params.config:q} --output {params.table:q} --log {log:q}"


checkpoint index:
    input:
        index=index_inputs(),
        earlier=EARLIER,
    output:
        manifest=update("results/clips/manifest.parquet"),
        plan=update("results/clips/shards.json"),
    log:
        text="results/logs/index.log",
        ledger="results/clips/index.ledger.parquet",
    benchmark:
        "results/benchmarks/index.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings(
            "clips.index",
            "clips.fps",
            "clips.duration",
            "clips.size",
            "clips.shard_size",
            "clips.shot_threshold",
            "clips.timeout",
            "clips.captioner",
        ),
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm index --config {params.config:q} --manifest {output.manifest:q} --plan {output.plan:q}"
        " --ledger {log.ledger:q} --log {log.text:q}"


# With a captioner, clips lie in another folder until they have their captions.
CAPTIONED = CONFIG.clips.captioner is not None


rule decode:
    input:
        manifest=ancient("results/clips/manifest.parquet"),
        planned=planned,
        drawn=stored(DRAWN) if CONFIG.clips.index == "moving-digits" else [],
    output:
        clips=temp("results/clips/uncaptioned/{shard}.tar") if CAPTIONED else "results/clips/{shard}.tar",
    log:
        text="results/logs/decode/{shard}.log",
        ledger="results/clips/{shard}.ledger.parquet",
    benchmark:
        "results/benchmarks/decode/{shard}.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("clips.fps", "clips.min_frames", "clips.image", "clips.decoder"),
        shard=shard_plan,
        sources=lambda wildcards, input: Path(input.manifest).parent / "sources",
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(240),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm decode --config {params.config:q} --manifest {input.manifest:q} --shard {wildcards.shard:q}"
        " --sources {params.sources:q} --output {output.clips:q} --ledger {log.ledger:q} --log {log.text:q}"


if CAPTIONED:

    rule caption:
        input:
            clips="results/clips/uncaptioned/{shard}.tar",
        output:
            clips="results/clips/{shard}.tar",
        log:
            text="results/logs/caption/{shard}.log",
            ledger="results/clips/captions/{shard}.ledger.parquet",
        benchmark:
            "results/benchmarks/caption/{shard}.tsv"
        params:
            config=CONFIG_FILE,
            settings=settings("clips.captioner"),
        threads: threads_for()
        resources:
            mem_mb=growing(16000),
            runtime=growing(240),
            gpu=1,
        conda:
            "../../envs/vlfm.yaml"
        shell:
            "vlfm caption --config {params.config:q} --clips {input.clips:q} --output {output.clips:q}"
            " --ledger {log.ledger:q} --threads {threads} --log {log.text:q}"
