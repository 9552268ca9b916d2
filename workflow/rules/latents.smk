# Decoded clips → visual decoder → latents by inversion.

TRAINED = CONFIG.decoder.name == "embedded"  # on the clips; any other decoder is found, and waits for none
# FOUND of vlfm/decoders/load.py; sizes are only checked against it.
FOUND = ["decoder.name", "decoder.model", "decoder.vae"]


rule prepare_decoder:
    input:
        plan=ancient("results/clips/shards.json"),
        clips=shards("results/clips/{shard}.tar", TRAIN) if TRAINED else [],
    output:
        made(DECODER),
    log:
        "results/logs/prepare_decoder.log",
    benchmark:
        "results/benchmarks/prepare_decoder.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("decoder", "seed") if TRAINED else settings(*FOUND, "clips.size"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm prepare-decoder --config {params.config:q} --plan {input.plan:q} --clips {params.results:q}/clips"
        " --output {params.results:q}/decoder --threads {threads} --log {log:q}"


rule invert:
    input:
        clips="results/clips/{shard}.tar",
        decoder=DECODER,
    output:
        latents=directory("results/latents/{shard}.zarr"),
    log:
        text="results/logs/invert/{shard}.log",
        ledger="results/latents/{shard}.ledger.parquet",
    benchmark:
        "results/benchmarks/invert/{shard}.tsv"
    params:
        config=CONFIG_FILE,
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
        decoder=lambda wildcards, input: Path(input.decoder[0]).parent,
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(480),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm invert --config {params.config:q} --clips {input.clips:q} --decoder {params.decoder:q}"
        " --output {output.latents:q} --ledger {log.ledger:q} --threads {threads} --log {log.text:q}"
