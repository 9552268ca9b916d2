# Videos made of captions, held-out ones first, and who judges them.


rule fit_judges:
    input:
        plan=ancient("results/clips/shards.json"),
        clips=shards("results/clips/{shard}.tar", TRAIN),
    output:
        "results/judges/judges.json",
    log:
        "results/logs/fit_judges.log",
    benchmark:
        "results/benchmarks/fit_judges.tsv"
    params:
        settings=settings("clips.fps", "generation.features", "text", "decoder.model", "seed"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm fit-judges --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"


rule generate_held_out:
    input:
        plan=ancient("results/clips/shards.json"),
        judges="results/judges/judges.json",
        model="results/model/training.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar"),
    output:
        table=report("results/eval/generation.csv", caption="../report/generation.rst", category="Scores"),
        sheet=report("results/eval/generation/sheet.png", caption="../report/generation.rst", category="Scores"),
        index="results/eval/generation/index.json",
    log:
        "results/logs/generation.log",
    benchmark:
        "results/benchmarks/generation.tsv"
    params:
        settings=settings("generation", "clips.fps", *SAMPLING, "seed"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm evaluate-generation --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"
