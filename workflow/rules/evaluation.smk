# The model against the true clips.


rule evaluate:
    input:
        plan=ancient("results/clips/shards.json"),
        model=MODEL,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar"),
    output:
        psnr=report("results/eval/psnr.csv", caption="../report/psnr.rst", category="Scores"),
        videos=made([VIDEOS]),
    log:
        "results/logs/evaluate.log",
    benchmark:
        "results/benchmarks/evaluate.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("evaluation", "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm evaluate --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {output.psnr:q} --videos {params.results:q}/eval/videos --threads {threads} --log {log:q}"
