import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import SMALL, make_config
from vlfm import config as configs
from vlfm.cli import main
from vlfm.storage.ledger import LedgerRow, write_ledger
from vlfm.storage.manifest import Clip, write_manifest


def test_help_imports_nothing_heavy():
    code = "import sys, vlfm.cli; vlfm.cli._parser().format_help(); print([m for m in sys.modules if m in " + (
        "('torch', 'diffusers', 'transformers', 'numpy', 'pyarrow', 'pydantic')])"
    )
    started = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert time.perf_counter() - started < 5


def test_errors_are_one_message_and_status_one(tmp_path, capsys):
    log = tmp_path / "logs" / "train.log"
    assert main(["train", "--config", str(tmp_path / "none.yaml"), "--log", str(log)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("vlfm train: ") and "no configuration at" in message and "Traceback" not in message
    assert log.read_text() == message


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--device", "gpu"], "there is no such device"), (["--device", "cuda:9"], "PyTorch sees no GPU here"),
     (["--threads", "0"], "give a number from 1 up")],
)  # fmt: skip
def test_devices_and_threads_that_are_none(tmp_path, capsys, options, said):
    if "cuda" in options[1] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    configs.save(make_config(**SMALL), tmp_path / "c.yaml")
    command = ["empty-caption", "--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "e.safetensors")]
    assert main([*command, *options]) == 1
    assert said in capsys.readouterr().err


def test_an_unforeseen_error_leaves_its_traceback_in_the_log(tmp_path, monkeypatch):
    configs.save(make_config(**SMALL), tmp_path / "c.yaml")
    monkeypatch.setattr(configs, "load", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["report", "--config", str(tmp_path / "c.yaml"), "--log", str(tmp_path / "l.log")])
    assert "ZeroDivisionError" in (tmp_path / "l.log").read_text()


def test_ledger_counts_training_and_test_clips_where_there_are_both(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    rows = [LedgerRow(name, "decode", "ok", source="a.mp4") for name in ("aa", "bb", "cc")]
    write_ledger(tmp_path / "clips" / "00000.ledger.parquet", [*rows, LedgerRow("dd", "decode", "bad", "dark")])

    def lines(**splits):
        clips = [Clip(name, "a.mp4", 0.0, 0.5, "", 2, 0, 96, 96, split) for name, split in splits.items()]
        write_manifest(tmp_path / "clips" / "manifest.parquet", clips)
        assert main(["ledger", "--results", str(tmp_path)]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    both = lines(aa="train", bb="train", cc="test", dd="test")
    assert both == [
        ["stage", "ok", "train", "test", "bad", "seconds", "MB"],
        ["decode", "3", "2", "1", "1", "0.0", "0.0"],
    ]
    one = lines(aa="train", bb="train", cc="train", dd="train")
    assert one == [["stage", "ok", "bad", "seconds", "MB"], ["decode", "3", "1", "0.0", "0.0"]]


def test_ledger_tells_bad_clips(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    rows = [
        LedgerRow("aa", "decode", "ok", source="a.mp4", row=2, seconds=1.5, bytes=2_000_000),
        LedgerRow("bb", "decode", "bad", "b.mp4 ends at 3 s", "b.mp4", 3),
    ]
    write_ledger(tmp_path / "clips" / "00000.ledger.parquet", rows)
    assert main(["ledger", "--results", str(tmp_path), "--bad"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["decode", "1", "1", "1.5", "2.0"]
    assert lines[2] == "decode row 3 bb b.mp4: b.mp4 ends at 3 s"
    assert main(["ledger", "--results", str(tmp_path / "nowhere")]) == 1


def test_a_reader_that_has_gone_is_no_failure_to_shout_about(tmp_path):
    """`vlfm ledger | head`."""
    (tmp_path / "clips").mkdir()
    write_ledger(tmp_path / "clips" / "00000.ledger.parquet", [LedgerRow("aa", "decode", "ok", source="a.mp4", row=2)])
    command = [sys.executable, "-m", "vlfm.cli", "ledger", "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # long before it has started
        assert process.stderr.read() == ""
        assert process.wait() == 141  # what the shell calls SIGPIPE
