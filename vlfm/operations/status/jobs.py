"""The jobs of a run: from an output, a log or a benchmark to the job that made it.

A job is called what its log and its benchmark are: `decode/00012`, `train`, `ablation/velocity`.
"""

import re
from pathlib import PurePosixPath

# What a job's outputs match, relative to the results → the job. The first that fits counts.
OUTPUTS = tuple(
    (re.compile(pattern), job)
    for pattern, job in (
        (r"clips/(manifest\.parquet|shards\.json)", "index"),
        (r"clips/digits/.*", "make_digits"),
        (r"clips/uncaptioned/(?P<part>\d+)\.tar", "decode/{part}"),
        (r"clips/(?P<part>\d+)\.tar", "decode/{part}"),
        (r"decoder/.*", "prepare_decoder"),
        (r"captions/.*", "encode_empty_caption"),
        (r"latents/(?P<part>\d+)\.zarr", "invert/{part}"),
        (r"coefficients/(?P<part>\d+)\.(tar|json)", "project/{part}"),
        (r"model/.*", "train"),
        (r"eval/(psnr\.csv|videos/.*)", "evaluate"),
        (r"judges/.*", "fit_judges"),
        (r"eval/(generation\.csv|generation/.*)", "generation"),
        (r"theory/.*", "theory"),
        (r"report/.*", "report"),
        (r"eval/(?P<name>baselines|depth)/(steps|prepared)\.json", "{name}/prepare"),
        (r"eval/(?P<name>\w+)/(?P<part>[^/]+)/(result\.json|model/.*)", "{name}/{part}"),
        (r"eval/(?P<name>\w+)(\.\w+|/.*)", "{name}"),
    )
)
# Job, or what stands before its `/` → stage. All others are experiments.
STAGES = {
    "make_digits": "index",
    "index": "index",
    "decode": "decode",
    "caption": "caption",
    "prepare_decoder": "prepare decoder",
    "invert": "invert",
    "project": "project",
    "encode_empty_caption": "train",
    "train": "train",
    "evaluate": "evaluate",
    "fit_judges": "generation",
    "generation": "generation",
    "theory": "theory",
    "report": "report",
}


def job_of(output: str, captioned: bool = False) -> str | None:
    """The job that makes an output, given as its rule has it (`results/…`); None for what is no rule's of this project.

    Args:
        captioned: whether a model captions the clips, which then lie in another folder until it has.
    """
    path = PurePosixPath(output)
    if path.parts[:1] != ("results",):
        return None
    name = str(path.relative_to("results"))
    for pattern, job in OUTPUTS:
        if match := pattern.fullmatch(name):
            found = job.format(**match.groupdict())
            final = captioned and found.startswith("decode/") and "uncaptioned" not in name
            return found.replace("decode/", "caption/") if final else found
    return None


def job_of_log(log: str) -> str | None:
    """The job that a log is of, given as its rule has it; None for what is no text of a job's."""
    path = PurePosixPath(log)
    if path.parts[:2] != ("results", "logs") or path.suffix != ".log":
        return None
    return str(path.relative_to("results/logs").with_suffix(""))


def stage_of(job: str) -> str:
    """The stage that a job belongs to."""
    return STAGES.get(job.partition("/")[0], "experiments")
