# Caption encoder → the empty caption, which stands for no caption in dropout and guidance.


rule encode_empty_caption:
    output:
        "results/captions/empty.safetensors",
    log:
        "results/logs/encode_empty_caption.log",
    benchmark:
        "results/benchmarks/encode_empty_caption.tsv"
    params:
        config=CONFIG_FILE,
        settings=settings("text", "decoder.model"),
    threads: 1
    resources:
        mem_mb=growing(16000),
        runtime=growing(60),
        gpu=1,
    conda:
        "../../envs/vlfm.yaml"
    shell:
        "vlfm empty-caption --config {params.config:q} --output {output:q} --threads {threads} --log {log:q}"
