# Everything measured → one page. (`vlfm report` writes it from what there is so far, experiments or not.)


rule write_report:
    input:
        psnr="results/eval/psnr.csv",
        videos="results/eval/videos/index.json",
        theory="results/theory/findings.json",
        experiments=expand("results/eval/{name}/index.json", name=EXPERIMENTS),
        generation=held_out("results/eval/generation/index.json"),
    output:
        report("results/report/index.html", caption="../report/page.rst", category="The whole run"),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm report --config results/config.yaml --output {output:q} --log {log:q}"
