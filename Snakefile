# Video Latent Flow Matching as a DAG: clips → latents → coefficients → model → evaluation → report.
#
#   snakemake --cores all                          everything, the report page included
#   snakemake --cores all train                    up to the trained model
#   snakemake --cores all results/eval/psnr.csv    one file
#
# This file holds targets only; each stage is a file in workflow/rules, each rule one `vlfm` subcommand.

from snakemake.utils import min_version

min_version("9.0")


configfile: workflow.source_path("config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/config.smk"
include: "workflow/rules/clips.smk"
include: "workflow/rules/latents.smk"
include: "workflow/rules/coefficients.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"


rule all:
    default_target: True
    input:
        "results/report/index.html",
        "results/eval/psnr.csv",
        "results/eval/videos/index.json",


rule train:
    input:
        "results/model/training.json",


rule eval:
    input:
        "results/eval/psnr.csv",
        "results/eval/videos/index.json",


rule report:
    input:
        "results/report/index.html",
