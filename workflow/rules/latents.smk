# Decoded clips → visual decoder → latents by inversion.

TRAINED = CONFIG.decoder.name == "embedded"  # on the clips; any other decoder is found, and waits for none


rule prepare_decoder:
    input:
        plan=ancient("results/clips/shards.json"),
        clips=shards("results/clips/{shard}.tar", TRAIN) if TRAINED else [],
    output:
        "results/decoder/decoder.json",
    log:
        "results/logs/prepare_decoder.log",
    benchmark:
        "results/benchmarks/prepare_decoder.tsv"
    params:
        settings=settings("decoder", "seed") if TRAINED else settings("decoder", "clips.size"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm prepare-decoder --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"


rule invert:
    input:
        clips="results/clips/{shard}.tar",
        decoder="results/decoder/decoder.json",
    output:
        latents=directory("results/latents/{shard}.zarr"),
    log:
        text="results/logs/invert/{shard}.log",
        ledger="results/latents/{shard}.ledger.parquet",
    benchmark:
        "results/benchmarks/invert/{shard}.tsv"
    params:
        # SETTINGS of vlfm/latents/invert.py: batch_size and compile decide how fast, not what.
        settings=settings(
            "inversion.depth",
            "inversion.steps",
            "inversion.refine",
            "inversion.prompt",
            "inversion.guidance",
            "inversion.null_text",
            "inversion.precision",
            "inversion.dtype",
            "text",
        ),
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(480),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm invert --config results/config.yaml --clips {input.clips:q} --output {output.latents:q}"
        " --ledger {log.ledger:q} --threads {threads} --log {log.text:q}"
