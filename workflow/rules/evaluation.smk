# The model against the true clips.


rule evaluate:
    input:
        plan=ancient("results/clips/shards.json"),
        model="results/model/training.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar"),
    output:
        psnr=report("results/eval/psnr.csv", caption="../report/psnr.rst", category="Scores"),
        videos="results/eval/videos/index.json",
    log:
        "results/logs/evaluate.log",
    benchmark:
        "results/benchmarks/evaluate.tsv"
    params:
        settings=settings("evaluation", "seed"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm evaluate --config results/config.yaml --plan {input.plan:q} --threads {threads} --log {log:q}"
