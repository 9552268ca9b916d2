"""A finished run's folder as the report reads it, made in seconds: real videos, tables and ledgers, no networks."""

import csv

import numpy as np
import torch

from tests.conftest import SMALL, make_config, merge
from vlfm import config as configs
from vlfm import plots
from vlfm.evaluation.generation.scoring import COLUMNS
from vlfm.experiments.shared.common import write_experiment, write_videos
from vlfm.storage.files import write_bytes, write_json
from vlfm.storage.ledger import LedgerRow, write_ledger
from vlfm.storage.pictures import contact_sheet, write_mp4, write_png
from vlfm.storage.tables import write_table

RATES = (8, 12, 16, 24, 48)
STAGES = ("decoder", "inversion", "projection", "network")
BAD = "the row has no <end>: give seconds"


def report_config(**change):
    return make_config(**merge({**SMALL, "evaluation": {**SMALL["evaluation"], "fps": list(RATES)}}, change))


def moving(seed, count, side=48):
    """A square that crosses the picture once, whatever the number of frames: uint8 (count, side, side, 3)."""
    frames = np.full((count, side, side, 3), 30 + 15 * seed, np.uint8)
    for index, frame in enumerate(frames):
        left = round((side - 16) * index / max(1, count - 1))
        frame[8 + 2 * seed : 24 + 2 * seed, left : left + 16] = (220, 120, 40)
    return frames


def figure(name):
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(figsize=(plots.WIDTH, 2))
    axes.plot([1, 2, 3], [3, 1, 2])
    return plots.svg(drawing, name)


def write_scores(path, ids):
    """Nothing is known of frames between the true ones: no score at 48 frames a second."""
    rows = [
        (name, fps, stage, 34 - 2 * place - index / 4, 70 - place, 0.9 - place / 20)
        for index, name in enumerate(ids)
        for fps in RATES[:4]
        for place, stage in enumerate(STAGES)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("clip_id", "fps", "stage", "psnr", "psnr_paper", "ssim"), *rows])


def write_clip_videos(folder, name, seed, caption, duration=0.5):
    videos = {"true": f"{name}_true.mp4"}
    write_mp4(folder / videos["true"], moving(seed, 12), 24)
    for fps in RATES:
        videos[str(fps)] = f"{name}_{fps}fps.mp4"
        write_mp4(folder / videos[str(fps)], 255 - moving(seed, round(fps * duration)), fps)
    pictures = {stage: moving(seed, 4) for stage in ("true", *STAGES)}
    write_png(folder / f"{name}.png", contact_sheet(pictures, np.arange(1, 5) / 8, caption))
    return {"clip_id": name, "caption": caption, "sheet": f"{name}.png", "videos": videos}


def write_some_experiment(output, name, groups=2):
    rows = [
        {"method": method, "fps": 24, "clips": 2, "psnr": value, "psnr_low": value - 1, "psnr_high": value + 1}
        for method, value in (("hybrid", 25.5), ("linear", 24.25), ("minterpolate", 31.125), ("repeat", 9.75))
    ]
    shown = [
        write_videos(
            output / name,
            f"clip{index}",
            f"clip {index}",
            {label: torch.from_numpy(moving(index, 12)).permute(0, 3, 1, 2) / 127.5 - 1 for label in ("true", "made")},
            24.0,
        )
        for index in range(groups)
    ]
    write_experiment(output, name, f"The experiment {name}", f"What {name} says.", rows, {}, figure(name), shown)


def write_ledger_experiment(output):
    losses = {
        "decoder": 34.0,
        "inversion": 2,
        "projection": 2,
        "network": 2,
        "interpolation": 1,
        "total": 7,
        "left": 27,
    }
    summary = [
        {"stage": stage, "mean": value, "low": value - 0.5, "high": value + 0.5} for stage, value in losses.items()
    ]
    rows = [{"clip_id": f"{index:016x}", **losses} for index in range(4)]
    write_experiment(output, "ledger", "Where quality goes", "Losses.", rows, {"means": summary}, figure("ledger"), [])


def write_generation(folder, splits=("test", "train"), captions=2, read=True):
    """Videos of captions, three of each, beside a true one; rows of two methods."""
    rows, groups = [], []
    for split in splits:
        for method, evaluations, share in (("true clips", None, 1.0), ("generated", 8, 0.25), ("generated", 1, 0.5)):
            row = dict.fromkeys(COLUMNS)
            if read:
                row |= {"all": share, "all_low": share - 0.1, "all_high": share}
            row |= {"precision": share, "precision_low": share, "precision_high": share, "sharpness": 0.9}
            about = {"method": method, "split": split, "evaluations": evaluations, "guidance": evaluations and 2.0}
            rows.append({**about, "captions": captions, "clips": 6, **row, "seconds": evaluations and 0.25})
        for index in range(captions):
            labels = ("true", "video 1", "video 2", "video 3")
            videos = [
                {"label": label, "file": f"{split}{index}_{place}.mp4", "fps": 8} for place, label in enumerate(labels)
            ]
            for place, video in enumerate(videos):
                write_mp4(folder / "generation" / video["file"], moving((3 * index + place) % 4, 8, 24), 8)
            note = "Read otherwise in 2: digit." if read else ""
            groups.append({"split": split, "title": f"{split} caption {index}", "videos": videos, "note": note})
    write_table(folder / "generation.csv", rows)
    write_json(folder / "generation" / "index.json", {"fingerprint": "0", "groups": groups})


def write_theory_findings(folder):
    finding = {
        "title": "Lemma F.1: the projection's error",
        "statement": "‖μ<sub>τ</sub> − u<sub>τ</sub>‖ is small.",
        "measured": ["It is 3 %."],
        "figures": ["projection"],
        "data": "projection",
        "table": "",
    }
    write_bytes(folder / "projection.svg", figure("projection").encode())
    write_json(folder / "findings.json", [finding])


def write_run(folder, count=4, experiments=("interpolation", "order"), theory=True, **change):
    """Write `folder/config.yaml` and what else a run leaves; returns the configuration."""
    config = report_config(**change)
    folder.mkdir(parents=True, exist_ok=True)
    configs.save(config, folder / "config.yaml")
    ids = [f"{index:016x}" for index in range(count)]
    captions = [f"a square, number {index}, <b>moves</b> & 'stops'" for index in range(count)]
    write_scores(folder / "eval" / "psnr.csv", ids)
    videos = folder / "eval" / "videos"
    entries = [write_clip_videos(videos, *each) for each in zip(ids, range(count), captions, strict=True)]
    write_json(videos / "index.json", {"fingerprint": "0", "clips": entries})
    write_json(folder / "decoder" / "decoder.json", {"name": "embedded", "held_out_psnr": 30.25, "fingerprint": "0"})
    write_json(folder / "model" / "training.json", {"clips": count, "steps": 12, "skipped": 0, "fingerprint": "0"})
    metrics = "step,samples,loss,gradient,learning_rate,skipped\n" + "".join(
        f"{step},{4 * step},{1 / step},0.5,0.001,0\n" for step in range(1, 13)
    )
    write_bytes(folder / "model" / "metrics.csv", metrics.encode())
    index = [LedgerRow(name, "index", "ok", source="a.mp4", row=place + 2) for place, name in enumerate(ids)]
    index.append(LedgerRow("", "index", "bad", BAD, "b.mp4", count + 2))
    write_ledger(folder / "clips" / "index.ledger.parquet", index)
    decoded = [LedgerRow(name, "decode", "ok", seconds=0.5, bytes=10**6) for name in ids]
    write_ledger(folder / "clips" / "00000.ledger.parquet", decoded)
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for name, seconds in (("decode/00000", 4.0), ("decode/00001", 4.0), ("train", 6.0), ("report", 99.0)):
        line = f"{seconds}\t0:00:04\t120.5\t0\t0\t0\t0\t0\t90\t{seconds / 2}\n"
        write_bytes(folder / "benchmarks" / f"{name}.tsv", (head + line).encode())
    for name in experiments:
        write_some_experiment(folder / "eval", name)
    if experiments:
        write_ledger_experiment(folder / "eval")
    if theory:
        write_theory_findings(folder / "theory")
    return config
