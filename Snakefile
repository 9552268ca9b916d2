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

if CONFIG.latents_from is None:

    include: "workflow/rules/clips.smk"
    include: "workflow/rules/latents.smk"

else:

    include: "workflow/rules/taken.smk"


include: "workflow/rules/captions.smk"
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
    configs.save(CONFIG, "results/config.yaml")


rule all:
    default_target: True
    input:
        "results/report/index.html",
        "results/eval/psnr.csv",
        "results/eval/videos/index.json",
        "results/theory/index.html",
        expand("results/eval/{name}/index.json", name=EXPERIMENTS),
        held_out("results/eval/generation/index.json"),


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
        "results/eval/videos/index.json",


rule generation:
    input:
        "results/eval/generation/index.json",


rule report:
    input:
        "results/report/index.html",


rule theory:
    input:
        "results/theory/index.html",


rule experiments:
    input:
        expand("results/eval/{name}/index.json", name=EXPERIMENTS),


# An hour each: by name alone, of no other target.
rule baselines:
    input:
        "results/eval/baselines/index.json",


rule depth:
    input:
        "results/eval/depth/index.json",
