# What the stages share: the checked configuration, each stage's part of it, and the shard plan.

import json

from vlfm import config as configs
from vlfm import devices
from vlfm.clips.datasets import index_files
from vlfm.errors import VLFMError
from vlfm.experiments import names as experiment_names
from vlfm.splits import TEST, TRAIN, shards_of

try:
    CONFIG = configs.parse(config, "the configuration")
except VLFMError as error:
    raise WorkflowError(str(error))


# On one machine, as many jobs that use a GPU run at a time as there are GPUs, each on its own; one where there is none.
# On a cluster (of so many --jobs; which executor it is, nobody knows yet), each job gets what it asks for.
GPUS = 1
if workflow.is_main_process and workflow.global_resources.get("_nodes").value is None:
    found = devices.find_gpus()
    GPUS = workflow.global_resources.get("gpu").value
    if GPUS is None:
        GPUS = max(1, len(found))
        workflow.register_resource("gpu", GPUS)
    # Whoever asks for more jobs at a time than there are GPUs wants them to share.
    devices.share(found if GPUS <= len(found) else {})


def threads_for(gpus=1):
    """Of a job that computes: its GPUs' share of the cores; at most 16, of which Snakemake gives what --cores allows.

    (`workflow.cores` would say the number, but cannot be asked without --cores, by `snakemake --unlock` for example.)
    """
    cores = workflow.global_resources.get("_cores").value
    return 16 if GPUS < 2 or cores is None else max(1, min(16, cores * gpus // GPUS))


# How a network is asked for clips.
SAMPLING = ["evaluation.steps", "evaluation.solver", "evaluation.solver_steps", "evaluation.guidance"]

# What every subcommand reads: on this machine, wherever results are stored.
CONFIG_FILE = "results/config.yaml"


wildcard_constraints:
    shard=r"\d{5}\d*",  # Snakemake does not read \d{5,}


def settings(*sections):
    """A rule's share of the configuration: it runs again when this changes, and only then."""
    return json.dumps(configs.settings(CONFIG, *sections), sort_keys=True)


def plan(wildcards):
    """The frozen shard plan: {shard: {"clips": …, "digest": …, …}}. Reading it makes the DAG wait for the index."""
    with checkpoints.index.get().output.plan.open() as file:
        return json.load(file)


def planned(wildcards):
    """No files. For rules whose params alone read the plan: Snakemake fetches it from a storage only for inputs."""
    plan(wildcards)
    return []


def shards(pattern, split=None):
    """An input function: `pattern` filled in for every shard of the plan, or for those of one split."""
    return lambda wildcards: expand(pattern, shard=shards_of(plan(wildcards), split))


def held_out(path):
    """An input function: `path` where the plan has test clips, nothing where it has none."""
    return lambda wildcards: path if shards_of(plan(wildcards), TEST) else []


def shard_plan(wildcards):
    """What a shard's clips are: a shard is decoded again when its own clips change, not when the plan grows.

    Its split, which no shard ever changes, decides nothing about frames; plans from before there were splits lack it.
    """
    about = plan(wildcards)[wildcards.shard]
    return json.dumps({key: value for key, value in about.items() if key != "split"}, sort_keys=True)


def results_folder(wildcards, input):
    """The results folder as a job sees it: a storage plugin gives it copies elsewhere."""
    return Path(input.plan).parents[1]


def growing(amount):
    """A resource of which a job gets more each time it is tried again: it may have failed for want of it."""
    return lambda wildcards, attempt: attempt * amount


def on_nodes(nodes, gpus):
    """The resources that keep a job on one node, or make it one of several with as many GPUs on each.

    That job starts a launcher on each node itself, which the Slurm plugin has the name `mpi` for.
    """
    if nodes == 1:
        return {"nodes": 1}
    return {"mpi": "srun", "nodes": nodes, "tasks": nodes, "tasks_per_gpu": 0, "gres": f"gpu:{gpus}"}


def experiment(name, *details):
    """An experiment's outputs: the table and the figure, the index of its videos, and further tables."""

    def shown(path, kind):
        labels = {"experiment": name, "as": kind}
        return report(path, caption=f"../report/{name}.rst", category="Experiments", labels=labels)

    index = experiment_index(name)
    return {
        "table": shown(f"results/eval/{name}.csv", "table"),
        "figure": shown(f"results/eval/{name}.svg", "figure"),
        "index": made([index]),
        # A stored folder holds them.
        **{detail: f"results/eval/{name}/{detail}.csv" for detail in details if Path(index).suffix},
    }


def experiment_index(name):
    """What says that an experiment is done. Those with parts that train have folders of theirs beside it."""
    index = f"results/eval/{name}/index.json"
    return index if name in experiment_names.WITH_PARTS else whole(index)


def index_inputs():
    """All the index files: the index is read again when one of them changes, or another is there."""
    index = CONFIG.clips.index
    if isinstance(index, str):
        return {"demo": [], "moving-digits": [DRAWN]}.get(index, [local(index)])
    try:
        return [local(str(path)) for entry in index for path in index_files(entry)]
    except VLFMError as error:
        raise WorkflowError(str(error))
