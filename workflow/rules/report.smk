# Everything measured → one page. (`vlfm report` writes it from what there is so far, experiments or not.)


rule write_report:
    input:
        psnr="results/eval/psnr.csv",
        videos=VIDEOS,
        theory="results/theory/findings.json",
        experiments=[experiment_index(name) for name in EXPERIMENTS],
        generation=held_out(GENERATED),
        # What those were made of, or lies beside them.
        judged=held_out(stored("results/eval/generation.csv")),
        shown=stored(
            *MODEL,
            *DECODER,
            "results/clips/manifest.parquet",
            *expand("results/eval/{name}.{kind}", name=EXPERIMENTS, kind=["csv", "svg"]),
            *expand(HEAD[0], head=HEADS),
            *expand("results/theory/{name}.svg", name=MEASURED),
        ),
    output:
        report("results/report/index.html", caption="../report/page.rst", category="The whole run"),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    params:
        config=CONFIG_FILE,
        results=lambda wildcards, output: Path(output[0]).parents[1],
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm report --config {params.config:q} --results {params.results:q} --output {output:q} --log {log:q}"
