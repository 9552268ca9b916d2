# The paper's statements, measured on the run.


rule measure_theory:
    input:
        plan=ancient("results/clips/shards.json"),
        model="results/model/training.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        page=report("results/theory/index.html", caption="../report/theory.rst", category="Theory"),
        findings="results/theory/findings.json",
        tables=expand(
            "results/theory/{name}.csv",
            name=["projection", "held_out", "timescale", "closed_form", "lipschitz", "budget"],
        ),
        figures=expand(
            "results/theory/{name}.svg",
            name=["projection", "held_out", "timescale", "closed_form", "lipschitz", "budget", "picture"],
        ),
    log:
        "results/logs/theory.log",
    benchmark:
        "results/benchmarks/theory.tsv"
    params:
        settings=settings("flow", "clips.fps", "clips.duration", "evaluation.steps", "seed"),
        folder=lambda wildcards, output: Path(output.page).parent,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm theory --config results/config.yaml --plan {input.plan:q} --output {params.folder:q} --threads {threads}"
        " --log {log:q}"
