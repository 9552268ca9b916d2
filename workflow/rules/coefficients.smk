# Latents → coefficients.


rule project:
    input:
        latents="results/latents/{shard}.zarr",
    output:
        coefficients="results/coefficients/{shard}.tar",
        moments="results/coefficients/{shard}.json",
    log:
        text="results/logs/project/{shard}.log",
        ledger="results/coefficients/{shard}.ledger.parquet",
    benchmark:
        "results/benchmarks/project/{shard}.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("flow.basis", "flow.order", "flow.projection", "flow.ridge"),
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm project --config {params.config:q} --latents {input.latents:q} --output {output.coefficients:q}"
        " --moments {output.moments:q} --ledger {log.ledger:q} --device cpu --threads {threads} --log {log.text:q}"
