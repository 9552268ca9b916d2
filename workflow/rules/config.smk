# The resolved configuration as a file, for subcommands.


localrules:
    config,


# Every subcommand reads this file. It is an `ancient` input everywhere, since a rule should run again for its
# own settings (its `params`) and not for a change anywhere in the file.
rule config:
    output:
        "results/config.yaml",
    log:
        "results/logs/config.log",
    benchmark:
        "results/benchmarks/config.tsv"
    params:
        settings=configs.settings(CONFIG, *configs.Config.model_fields),
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    run:
        configs.save(configs.parse(params.settings), output[0])
