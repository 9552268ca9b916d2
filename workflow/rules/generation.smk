# Videos generated from captions, held-out ones first, and who judges them.

SHEET = "" if STORED else "results/eval/generation/sheet.png"  # a stored folder holds it


rule fit_judges:
    input:
        plan=ancient("results/clips/shards.json"),
        clips=shards("results/clips/{shard}.tar", TRAIN),
    output:
        made(JUDGES),
    log:
        "results/logs/fit_judges.log",
    benchmark:
        "results/benchmarks/fit_judges.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("clips.fps", "generation.features", "text", "decoder.model", "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm fit-judges --config {params.config:q} --plan {input.plan:q} --clips {params.results:q}/clips"
        " --output {params.results:q}/judges --threads {threads} --log {log:q}"


rule generate_held_out:
    input:
        plan=ancient("results/clips/shards.json"),
        judges=JUDGES,
        model=MODEL,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar"),
    output:
        table=report("results/eval/generation.csv", caption="../report/generation.rst", category="Scores"),
        sheet=report(SHEET, caption="../report/generation.rst", category="Scores") if SHEET else [],
        index=made([GENERATED]),
    log:
        "results/logs/generation.log",
    benchmark:
        "results/benchmarks/generation.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("generation", "clips.fps", *SAMPLING, "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm evaluate-generation --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"
