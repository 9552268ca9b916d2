# The paper's experiments on a finished run, each with a table, a figure and videos side by side.

EXPERIMENTS = ["interpolation", "extrapolation", "order", "ledger", "ablation", "speed"]
if CONFIG.clips.fps not in CONFIG.evaluation.fps:
    # The stages it compares are scored at the clips' own rate.
    EXPERIMENTS.remove("ledger")
SAMPLING = ["evaluation.steps", "evaluation.solver", "evaluation.solver_steps", "evaluation.guidance"]
HEADS = ["velocity", "direct", "coefficients"]


wildcard_constraints:
    head="|".join(HEADS),


rule interpolate:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("interpolation", "clips"),
    log:
        "results/logs/interpolation.log",
    benchmark:
        "results/benchmarks/interpolation.tsv"
    params:
        settings=settings(
            "flow.order", "clips.fps", "experiments.clips", "experiments.scenes", "experiments.videos", "seed"
        ),
    threads: 16
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment interpolation --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"


rule extrapolate:
    input:
        plan=ancient("results/clips/shards.json"),
        manifest=ancient("results/clips/manifest.parquet"),
        model="results/model/training.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("extrapolation", "clips"),
    log:
        "results/logs/extrapolation.log",
    benchmark:
        "results/benchmarks/extrapolation.tsv"
    params:
        settings=settings(
            "flow.order",
            "clips.fps",
            *SAMPLING,
            "experiments.clips",
            "experiments.scenes",
            "experiments.videos",
            "experiments.extend",
            "seed",
        ),
    threads: 16
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment extrapolation --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"


rule compare_orders:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("order", "clips"),
    log:
        "results/logs/order.log",
    benchmark:
        "results/benchmarks/order.tsv"
    params:
        settings=settings("experiments.clips", "experiments.orders", "experiments.videos", "seed"),
    threads: 16
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment order --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"


rule write_ledger:
    input:
        plan=ancient("results/clips/shards.json"),
        psnr="results/eval/psnr.csv",
        model="results/model/training.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("ledger", "means"),
    log:
        "results/logs/ledger.log",
    benchmark:
        "results/benchmarks/ledger.tsv"
    params:
        settings=settings("flow.order", "clips.fps", *SAMPLING, "experiments.videos", "seed"),
    threads: 16
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ledger --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"


rule train_head:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
    output:
        result="results/eval/ablation/{head}/result.json",
        model="results/eval/ablation/{head}/model/training.json",
    log:
        "results/logs/ablation/{head}.log",
    benchmark:
        "results/benchmarks/ablation/{head}.tsv"
    params:
        settings=settings(
            "model",
            "training",
            "flow",
            *SAMPLING,
            "experiments.clips",
            "experiments.videos",
            "experiments.ablation_steps",
            "seed",
        ),
    threads: 16
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ablation --part {wildcards.head} --config results/config.yaml --plan {input.plan:q}"
        " --threads {threads} --log {log:q}"


rule compare_heads:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        latents=shards("results/latents/{shard}.zarr"),
        heads=expand("results/eval/ablation/{head}/result.json", head=HEADS),
    output:
        **experiment("ablation", "clips", "curve"),
    log:
        "results/logs/ablation.log",
    benchmark:
        "results/benchmarks/ablation.tsv"
    params:
        settings=settings("seed"),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ablation --config results/config.yaml --plan {input.plan:q} --log {log:q}"


rule measure_speed:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        heads=expand("results/eval/ablation/{head}/model/training.json", head=HEADS),
    output:
        **experiment("speed"),
    log:
        "results/logs/speed.log",
    benchmark:
        "results/benchmarks/speed.tsv"
    params:
        settings=settings("evaluation", "seed"),
    threads: 16
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment speed --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"
