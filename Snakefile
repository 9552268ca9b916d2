# Video Latent Flow Matching as a DAG: clips → latents → coefficients → model → evaluation → report.
#
#   snakemake --cores all                          everything, the report page included
#   snakemake --cores all train                    up to the trained model
#   snakemake --cores all results/eval/psnr.csv    one file
#   … clips, latents, coefficients, eval, generation, experiments, theory, report   up to that stage
#   … baselines, depth                             the experiments that take an hour, of captioned data
#
# This file holds targets only; each stage is a file in workflow/rules, each rule one `vlfm` subcommand.

from snakemake.utils import min_version

min_version("9.0")


configfile: workflow.source_path("config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/stored.smk"

if CONFIG.latents_from is None:

    include: "workflow/rules/clips.smk"
    include: "workflow/rules/latents.smk"

else:

    include: "workflow/rules/reused.smk"


include: "workflow/rules/empty_caption.smk"
include: "workflow/rules/coefficients.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/generation.smk"
include: "workflow/rules/report.smk"


# Every subcommand reads this file. It is no rule's input: a rule runs again for its own settings (its `params`),
# not for a change anywhere in the file; and a rule upstream of the checkpoint would hide the DAG behind it.
onstart:
    configs.save(CONFIG, CONFIG_FILE)


# A job on a machine that shares no folder with this one.
if workflow.remote_exec and not Path(CONFIG_FILE).exists():
    configs.save(CONFIG, CONFIG_FILE)


rule all:
    default_target: True
    input:
        "results/report/index.html",
        "results/eval/psnr.csv",
        VIDEOS,
        "results/theory/index.html",
        map(experiment_index, EXPERIMENTS),
        held_out(GENERATED),


rule clips:
    input:
        shards("results/clips/{shard}.tar"),


rule latents:
    input:
        shards("results/latents/{shard}.zarr"),


rule coefficients:
    input:
        shards("results/coefficients/{shard}.tar"),


rule train:
    input:
        "results/model/training.json",


rule eval:
    input:
        "results/eval/psnr.csv",
        VIDEOS,


rule generation:
    input:
        GENERATED,


rule report:
    input:
        "results/report/index.html",


rule theory:
    input:
        "results/theory/index.html",


rule experiments:
    input:
        map(experiment_index, EXPERIMENTS),


# An hour each: they run only when asked for by name, and belong to no other target.
rule baselines:
    input:
        "results/eval/baselines/index.json",


rule depth:
    input:
        "results/eval/depth/index.json",
