# The paper's experiments on a finished run, each with a table, a figure and videos side by side.

# The stages that the ledger compares are scored at the clips' own rate.
LEDGER = CONFIG.clips.fps in CONFIG.evaluation.fps
EXPERIMENTS = [name for name in experiment_names.EXPERIMENTS if LEDGER or name != "ledger"]
HEADS = experiment_names.HEADS
VARIANTS = [*HEADS, "all-frames"]
SEEDS = sorted(set(CONFIG.experiments.baseline_seeds))
DEPTHS = [f"{depth:g}" for depth in sorted(set(CONFIG.experiments.depths))]
# What a head leaves, first and last: where results are stored, its folder.
HEAD = stored("results/eval/ablation/{head}") or [
    "results/eval/ablation/{head}/result.json",
    "results/eval/ablation/{head}/model/training.json",
]
# What preparing leaves for the parts.
FRAMES = stored("results/eval/baselines/frames")
CHOSEN = stored("results/eval/depth/clips")
if CONFIG.decoder.name == "embedded" and not CONFIG.predictor_steps and max(CONFIG.experiments.depths) > 0:
    CHOSEN += stored("results/eval/depth/decoder")


wildcard_constraints:
    head="|".join(HEADS),
    variant="|".join(VARIANTS),
    seed=r"\d+",
    depth=r"[\d.]+",


rule interpolate:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("interpolation", "clips"),
    log:
        "results/logs/interpolation.log",
    benchmark:
        "results/benchmarks/interpolation.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings(
            "flow.order", "clips.fps", "experiments.clips", "experiments.scenes", "experiments.videos", "seed"
        ),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment interpolation --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule extrapolate:
    input:
        plan=ancient("results/clips/shards.json"),
        manifest=ancient("results/clips/manifest.parquet"),
        model=MODEL,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("extrapolation", "clips"),
    log:
        "results/logs/extrapolation.log",
    benchmark:
        "results/benchmarks/extrapolation.tsv"
    params:
        config=CONFIG_FILE,
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
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment extrapolation --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule compare_orders:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("order", "clips"),
    log:
        "results/logs/order.log",
    benchmark:
        "results/benchmarks/order.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("flow.basis", "experiments.clips", "experiments.orders", "experiments.videos", "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment order --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule write_ledger:
    input:
        plan=ancient("results/clips/shards.json"),
        psnr="results/eval/psnr.csv",
        model=MODEL,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        **experiment("ledger", "means"),
    log:
        "results/logs/ledger.log",
    benchmark:
        "results/benchmarks/ledger.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("flow.basis", "flow.order", "clips.fps", *SAMPLING, "experiments.videos", "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ledger --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule train_head:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
    output:
        made(HEAD),
    log:
        "results/logs/ablation/{head}.log",
    benchmark:
        "results/benchmarks/ablation/{head}.tsv"
    params:
        config=CONFIG_FILE,
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
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(720),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ablation --part {wildcards.head} --config {params.config:q} --plan {input.plan:q}"
        " --results {params.results:q} --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule compare_heads:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        latents=shards("results/latents/{shard}.zarr"),
        heads=expand(HEAD[0], head=HEADS),
    output:
        **experiment("ablation", "clips", "curve"),
    log:
        "results/logs/ablation.log",
    benchmark:
        "results/benchmarks/ablation.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("seed"),
        results=results_folder,
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment ablation --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --device cpu --log {log:q}"


rule measure_speed:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        heads=expand(HEAD[-1], head=HEADS),
    output:
        **experiment("speed"),
    log:
        "results/logs/speed.log",
    benchmark:
        "results/benchmarks/speed.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("evaluation", "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment speed --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"


# ------------------------------------------------------------- baselines and depth: an hour each, asked for by name


rule prepare_baselines:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
        empty=EMPTY,
    output:
        "results/eval/baselines/steps.json",
        made(FRAMES),
    log:
        "results/logs/baselines/prepare.log",
    benchmark:
        "results/benchmarks/baselines/prepare.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("model", "training", "flow", "experiments.baseline_seconds"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment baselines --part prepare --config {params.config:q} --plan {input.plan:q}"
        " --results {params.results:q} --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule train_baseline:
    input:
        plan=ancient("results/clips/shards.json"),
        steps="results/eval/baselines/steps.json",
        frames=FRAMES,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        coefficients=shards("results/coefficients/{shard}.tar", TRAIN),
        moments=shards("results/coefficients/{shard}.json", TRAIN),
        judges=JUDGES,
        empty=EMPTY,
    output:
        "results/eval/baselines/{variant}-{seed}/result.json",
    log:
        "results/logs/baselines/{variant}-{seed}.log",
    benchmark:
        "results/benchmarks/baselines/{variant}-{seed}.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings(
            "model",
            "training",
            "flow",
            *SAMPLING,
            "generation",
            "experiments.baseline_steps",
            "experiments.videos",
        ),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(720),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment baselines --part {wildcards.variant}-{wildcards.seed} --config {params.config:q}"
        " --plan {input.plan:q} --results {params.results:q} --output {params.results:q}/eval --threads {threads}"
        " --log {log:q}"


rule compare_baselines:
    input:
        plan=ancient("results/clips/shards.json"),
        steps="results/eval/baselines/steps.json",
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        judges=JUDGES,
        trained=expand("results/eval/baselines/{variant}-{seed}/result.json", variant=VARIANTS, seed=SEEDS),
    output:
        **experiment("baselines", "seeds"),
    log:
        "results/logs/baselines.log",
    benchmark:
        "results/benchmarks/baselines.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("generation", "experiments.videos", "seed"),
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment baselines --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule prepare_depths:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
    output:
        "results/eval/depth/prepared.json",
        made(CHOSEN),
    log:
        "results/logs/depth/prepare.log",
    benchmark:
        "results/benchmarks/depth/prepare.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings(
            "decoder",
            "experiments.depths",
            "experiments.depth_clips",
            "seed",
        ),
        # At depth 0 the run itself trains no noise predictor, but the sweep does.
        steps=CONFIG.decoder.embedded.steps,
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment depth --part prepare --config {params.config:q} --plan {input.plan:q}"
        " --results {params.results:q} --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule try_depth:
    input:
        plan=ancient("results/clips/shards.json"),
        prepared="results/eval/depth/prepared.json",
        chosen=CHOSEN,
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        judges=JUDGES,
        empty=EMPTY,
    output:
        "results/eval/depth/{depth}/result.json",
    log:
        "results/logs/depth/{depth}.log",
    benchmark:
        "results/benchmarks/depth/{depth}.tsv"
    params:
        config=CONFIG_FILE,
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
        results=results_folder,
    threads: threads_for()
    resources:
        mem_mb=growing(16000),
        runtime=growing(720),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment depth --part {wildcards.depth} --config {params.config:q} --plan {input.plan:q}"
        " --results {params.results:q} --output {params.results:q}/eval --threads {threads} --log {log:q}"


rule compare_depths:
    input:
        plan=ancient("results/clips/shards.json"),
        decoder=DECODER,
        clips=shards("results/clips/{shard}.tar"),
        latents=shards("results/latents/{shard}.zarr"),
        judges=JUDGES,
        depths=expand("results/eval/depth/{depth}/result.json", depth=DEPTHS),
    output:
        **experiment("depth"),
    log:
        "results/logs/depth.log",
    benchmark:
        "results/benchmarks/depth.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("generation", "experiments.videos", "seed"),
        results=results_folder,
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm experiment depth --config {params.config:q} --plan {input.plan:q} --results {params.results:q}"
        " --output {params.results:q}/eval --device cpu --threads {threads} --log {log:q}"
