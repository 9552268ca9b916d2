# The paper's statements, measured on the run.

MEASURED = ["projection", "held_out", "timescale", "closed_form", "lipschitz", "budget", "picture"]


rule measure_theory:
    input:
        plan=ancient("results/clips/shards.json"),
        model=MODEL,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        page=report("results/theory/index.html", caption="../report/theory.rst", category="Theory"),
        findings="results/theory/findings.json",
        tables=expand("results/theory/{name}.csv", name=MEASURED[:-1]),
        figures=expand("results/theory/{name}.svg", name=MEASURED),
    log:
        "results/logs/theory.log",
    benchmark:
        "results/benchmarks/theory.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("flow", "clips.fps", "clips.duration", *SAMPLING, "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm theory --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/theory --threads {threads} --log {log:q}"
