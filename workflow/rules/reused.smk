# In place of clips.smk and latents.smk, where `latents_from` names another run: its plan, decoder, clips and latents.
#
# The rules have the names of those that make these files. Where the other run makes one anew, it is taken anew; what
# it adds to its plan is not: the plan here is the first.

TAKEN = CONFIG.latents_from
if STORED:
    raise WorkflowError(
        f"latents_from ({TAKEN}) makes links to a folder of this machine, which no storage keeps: run without "
        "--default-storage-provider, or set latents_from to null"
    )

# ALIKE of vlfm/latents/reused.py.
ALIKE = settings(
    "latents_from",
    "inversion.depth",
    "inversion.steps",
    "inversion.refine",
    "inversion.prompt",
    "inversion.guidance",
    "inversion.null_text",
    "inversion.precision",
    "inversion.dtype",
    "clips.fps",
    "clips.index",
    "clips.digits",
    "clips.min_frames",
    "clips.duration",
    "clips.size",
    "clips.shard_size",
    "clips.image",
    "clips.shot_threshold",
    "clips.decoder",
    "clips.captioner",
    "decoder",
    "text",
)


checkpoint index:
    input:
        manifest=ancient(f"{TAKEN}/clips/manifest.parquet"),
        plan=ancient(f"{TAKEN}/clips/shards.json"),
    output:
        manifest="results/clips/manifest.parquet",
        plan="results/clips/shards.json",
    log:
        "results/logs/index.log",
    benchmark:
        "results/benchmarks/index.tsv"
    params:
        config=CONFIG_FILE,
        settings=ALIKE,
        results=lambda wildcards, output: Path(output[0]).parents[1],
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm take plan --config {params.config:q} --output {params.results:q} --log {log:q}"


rule prepare_decoder:
    input:
        f"{TAKEN}/decoder/decoder.json",
    output:
        made(DECODER),
    log:
        "results/logs/prepare_decoder.log",
    benchmark:
        "results/benchmarks/prepare_decoder.tsv"
    params:
        config=CONFIG_FILE,
        settings=ALIKE,
        results=lambda wildcards, output: Path(output[0]).parents[1],
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm take decoder --config {params.config:q} --output {params.results:q} --log {log:q}"


rule decode:
    input:
        clips=f"{TAKEN}/clips/{{shard}}.tar",
    output:
        clips="results/clips/{shard}.tar",
    log:
        "results/logs/decode/{shard}.log",
    benchmark:
        "results/benchmarks/decode/{shard}.tsv"
    params:
        config=CONFIG_FILE,
        settings=ALIKE,
        results=lambda wildcards, output: Path(output[0]).parents[1],
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm take clips --config {params.config:q} --output {params.results:q} --shard {wildcards.shard:q}"
        " --log {log:q}"


rule invert:
    input:
        latents=f"{TAKEN}/latents/{{shard}}.zarr",
        decoder=DECODER,
    output:
        latents=directory("results/latents/{shard}.zarr"),
    log:
        "results/logs/invert/{shard}.log",
    benchmark:
        "results/benchmarks/invert/{shard}.tsv"
    params:
        config=CONFIG_FILE,
        settings=ALIKE,
        results=lambda wildcards, output: Path(output[0]).parents[1],
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm take latents --config {params.config:q} --output {params.results:q} --shard {wildcards.shard:q}"
        " --log {log:q}"
