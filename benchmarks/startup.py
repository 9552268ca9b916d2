"""What a job pays before it begins to work: processor seconds and memory of each subcommand's imports, and whole jobs.

    python benchmarks/startup.py [--run RUN] [--before OTHER_CHECKOUT]

Imports: each subcommand in a process of its own, the command line and what it imports before its first line of work.
Jobs, with `--run`, the results of a run with tests/workflow/small.yaml: whole jobs on its first shard, whose work is
next to nothing, so that what is imported later counts too. With `--before`, another checkout beside this one. The best
of several tries; processor seconds, since they hardly depend on what else the machine does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vlfm.storage.files import write_json

ROOT = Path(__file__).resolve().parent.parent
# The imports stand in the functions of `vlfm.commands`: of the subcommand's own, and of those there that it calls.
CHILD = """
import ast, inspect, json, resource, sys
from vlfm import cli

def imports(function, seen):
    if function in seen:
        return
    seen.add(function)
    tree = ast.parse(inspect.getsource(function))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield ast.unparse(node)
        if isinstance(node, ast.Name) and inspect.isfunction(other := function.__globals__.get(node.id)):
            if other.__module__.startswith("vlfm.commands"):
                yield from imports(other, seen)

parser = cli._parser()
(commands,) = [action.choices for action in parser._actions if hasattr(action, "_name_parser_map")]
if len(sys.argv) == 1:
    print(json.dumps(list(commands)))
else:
    for line in imports(commands[sys.argv[1]].get_default("run"), set()):
        exec(line)
    used = resource.getrusage(resource.RUSAGE_SELF)
    (peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    heavy = [name for name in ("torch", "diffusers", "transformers", "accelerate", "scipy") if name in sys.modules]
    seconds = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "MB": int(peak) / 1024, "modules": len(sys.modules), "heavy": heavy}))
"""


def ask(checkout: Path, *arguments: str) -> dict | list:
    """What the child says of a checkout's package."""
    command = [sys.executable, "-c", CHILD, *arguments]  # which imports from the folder it runs in
    return json.loads(subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout)


def imports(checkout: Path, command: str) -> dict:
    """The imports of a subcommand."""
    return ask(checkout, command)


def jobs(run: Path, out: Path, checkout: Path) -> dict[str, list]:
    """Command lines of jobs on the first shard of a run, which write to `out`."""
    clips, shard = run / "clips", "00000"
    config = ["--config", checkout / "config.yaml", "--config", checkout / "tests" / "workflow" / "small.yaml"]
    written = ["--output", out / "output", "--ledger", out / "ledger.parquet"]
    return {
        "index": ["--manifest", out / "manifest.parquet", "--ledger", out / "i.parquet", "--plan", out / "plan.json"],
        "decode": ["--shard", "0", "--manifest", clips / "manifest.parquet", "--sources", out / "sources", *written],
        "invert": ["--clips", clips / f"{shard}.tar", "--decoder", run / "decoder", *written],
        "project": ["--latents", run / "latents" / f"{shard}.zarr", "--moments", out / "moments.json", *written],
        "ledger": ["--results", run],
        "report": ["--results", run, "--output", out / "report.html"],
    } | {"": config}


def job(checkout: Path, command: str, run: Path) -> dict:
    """A whole job."""
    with tempfile.TemporaryDirectory() as folder:
        lines = jobs(run, Path(folder), checkout)
        line = [sys.executable, "-m", "vlfm.cli", command, *lines[""], *lines[command]]
        process = subprocess.Popen(list(map(str, line)), cwd=checkout, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed in {checkout}")
    return {"seconds": used.ru_utime + used.ru_stime, "MB": used.ru_maxrss / 1024}


def compare(measure, names: list[str], before: Path | None, tries: int) -> dict:
    """A table of the names, here and in the checkout before; also printed."""
    print("| | before, s | s | before, MB | MB | imports |\n| --- | --- | --- | --- | --- | --- |")
    table = {}
    for name in names:
        row = {}
        for when, checkout in (("before", before), ("now", ROOT)):
            if checkout is not None:
                row[when] = min((measure(checkout, name) for _ in range(tries)), key=lambda one: one["seconds"])
        table[name] = row
        cells = [
            f"{row[when][what]:.{digits}f}" if when in row else ""
            for what, digits in (("seconds", 1), ("MB", 0))
            for when in ("before", "now")
        ]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(row['now'].get('heavy', []))} |", flush=True)
    return table


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="the results of a run with tests/workflow/small.yaml")
    parser.add_argument("--before", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "startup.json")
    arguments = parser.parse_args()
    before = arguments.before and arguments.before.resolve()
    record = {"what": "processor seconds of a job's start"}
    record["imports"] = compare(imports, ask(ROOT), before, arguments.tries)
    if arguments.run:
        run = arguments.run.resolve()
        names = [name for name in jobs(run, run, ROOT) if name]
        measured = compare(lambda checkout, name: job(checkout, name, run), names, before, arguments.tries)
        record["jobs"] = measured
    # Not before: a process begins with the memory of the one that starts it in its peak.
    import torch
    from machine import machine

    write_json(arguments.out, record | {"machine": machine(torch.device("cpu"))})


if __name__ == "__main__":
    main()
