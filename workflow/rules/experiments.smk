# The paper's experiments on a finished run, each with a table, a figure and videos side by side.

EXPERIMENTS = ["interpolation", "extrapolation", "order", "ledger", "ablation", "speed"]
if CONFIG.clips.fps not in CONFIG.evaluation.fps:
    # The stages it compares are scored at the clips' own rate.
    EXPERIMENTS.remove("ledger")
SAMPLING = ["evaluation.steps", "evaluation.solver", "evaluation.solver_steps", "evaluation.guidance"]
HEADS = ["velocity", "direct", "coefficients"]
VARIANTS = [*HEADS, "all-frames"]
SEEDS = sorted(set(CONFIG.experiments.baseline_seeds))
DEPTHS = [f"{depth:g}" for depth in sorted(set(CONFIG.experiments.depths))]
# Where the empty caption lies that training drops captions for.
EMPTY = ["results/captions/empty.safetensors"] if CONFIG.training.caption_dropout else []


wildcard_constraints:
    head="|".join(HEADS),
    variant="|".join(VARIANTS),
    seed=r"\d+",
    depth=r"[\d.]+",


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
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
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
            "flow.basis",
            "flow.order",
            "clips.fps",
            *SAMPLING,
            "experiments.clips",
            "experiments.scenes",
            "experiments.videos",
            "experiments.extend",
            "seed",
        ),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
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
        settings=settings("flow.basis", "experiments.clips", "experiments.orders", "experiments.videos", "seed"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
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
        settings=settings("flow.basis", "flow.order", "clips.fps", *SAMPLING, "experiments.videos", "seed"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
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
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(720),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ablation --config results/config.yaml --plan {input.plan:q} --device cpu --log {log:q}"


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
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment speed --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"


# ------------------------------------------------------------- baselines and depth: an hour each, asked for by name


rule prepare_baselines:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
        empty=EMPTY,
    output:
        "results/eval/baselines/steps.json",
    log:
        "results/logs/baselines/prepare.log",
    benchmark:
        "results/benchmarks/baselines/prepare.tsv"
    params:
        settings=settings("model", "training", "flow", "experiments.baseline_seconds"),
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment baselines --part prepare --config results/config.yaml --plan {input.plan:q}"
        " --threads {threads} --log {log:q}"


rule train_baseline:
    input:
        plan=ancient("results/clips/shards.json"),
        steps="results/eval/baselines/steps.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
        judges="results/judges/judges.json",
        empty=EMPTY,
    output:
        "results/eval/baselines/{variant}-{seed}/result.json",
    log:
        "results/logs/baselines/{variant}-{seed}.log",
    benchmark:
        "results/benchmarks/baselines/{variant}-{seed}.tsv"
    params:
        settings=settings(
            "model",
            "training",
            "flow",
            *SAMPLING,
            "generation",
            "experiments.baseline_steps",
            "experiments.videos",
        ),
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(720),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment baselines --part {wildcards.variant}-{wildcards.seed} --config results/config.yaml"
        " --plan {input.plan:q} --threads {threads} --log {log:q}"


rule compare_baselines:
    input:
        plan=ancient("results/clips/shards.json"),
        steps="results/eval/baselines/steps.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        judges="results/judges/judges.json",
        trained=expand("results/eval/baselines/{variant}-{seed}/result.json", variant=VARIANTS, seed=SEEDS),
    output:
        **experiment("baselines", "seeds"),
    log:
        "results/logs/baselines.log",
    benchmark:
        "results/benchmarks/baselines.tsv"
    params:
        settings=settings("generation", "experiments.videos", "seed"),
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment baselines --config results/config.yaml --plan {input.plan:q} --threads {threads}"
        " --log {log:q}"


rule prepare_depths:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        "results/eval/depth/prepared.json",
    log:
        "results/logs/depth/prepare.log",
    benchmark:
        "results/benchmarks/depth/prepare.tsv"
    params:
        settings=settings(
            "decoder",
            "experiments.depths",
            "experiments.depth_clips",
            "seed",
        ),
        # At depth 0 the run itself trains no noise predictor, but the sweep does.
        steps=CONFIG.decoder.embedded.steps,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment depth --part prepare --config results/config.yaml --plan {input.plan:q}"
        " --threads {threads} --log {log:q}"


rule try_depth:
    input:
        plan=ancient("results/clips/shards.json"),
        prepared="results/eval/depth/prepared.json",
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        judges="results/judges/judges.json",
        empty=EMPTY,
    output:
        "results/eval/depth/{depth}/result.json",
    log:
        "results/logs/depth/{depth}.log",
    benchmark:
        "results/benchmarks/depth/{depth}.tsv"
    params:
        settings=settings(
            "inversion",
            "text",
            "model",
            "training",
            "flow",
            *SAMPLING,
            "evaluation.clips",
            "generation",
            "experiments.videos",
            "experiments.depth_steps",
            "seed",
        ),
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(720),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment depth --part {wildcards.depth} --config results/config.yaml --plan {input.plan:q}"
        " --threads {threads} --log {log:q}"


rule compare_depths:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder="results/decoder/decoder.json",
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        judges="results/judges/judges.json",
        depths=expand("results/eval/depth/{depth}/result.json", depth=DEPTHS),
    output:
        **experiment("depth"),
    log:
        "results/logs/depth.log",
    benchmark:
        "results/benchmarks/depth.tsv"
    params:
        settings=settings("generation", "experiments.videos", "seed"),
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment depth --config results/config.yaml --plan {input.plan:q} --device cpu --threads {threads}"
        " --log {log:q}"
