# The model against the true clips, and the page that shows it.


rule evaluate:
    input:
        plan=ancient("results/clips/shards.json"),
        model="results/model/training.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar"),
    output:
        psnr="results/eval/psnr.csv",
        videos="results/eval/videos/index.json",
    log:
        "results/logs/evaluate.log",
    benchmark:
        "results/benchmarks/evaluate.tsv"
    params:
        settings=settings("evaluation", "seed"),
    threads: 16
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm evaluate --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"


rule write_report:
    input:
        psnr="results/eval/psnr.csv",
        videos="results/eval/videos/index.json",
    output:
        "results/report/index.html",
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm report --config results/config.yaml --output {output:q} --log {log:q}"
