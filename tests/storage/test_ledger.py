"""The ledger."""

import pytest

from vlfm.errors import VLFMError
from vlfm.storage.ledger import LedgerRow, check_share_of_bad, read_ledger, write_ledger


def row(name, status="ok"):
    return LedgerRow(name, "decode", status, "" if status == "ok" else "too dark", "a.mp4", 3, 0.5, 10)


def test_ledger_round_trip(tmp_path):
    rows = [row("aa"), row("bb", "bad")]
    write_ledger(tmp_path / "l.parquet", rows)
    assert read_ledger(tmp_path / "l.parquet") == rows
    write_ledger(tmp_path / "l.parquet", [])
    assert read_ledger(tmp_path / "l.parquet") == []


def test_share_of_bad():
    rows = [row("aa"), row("bb"), row("cc", "bad"), row("dd", "bad")]
    check_share_of_bad(rows, 0.5, "shard 3")
    with pytest.raises(VLFMError, match=r"shard 3: 2 of 4.*\n.*cc: too dark"):
        check_share_of_bad(rows, 0.4, "shard 3")
    with pytest.raises(VLFMError, match="none is left"):
        check_share_of_bad(rows[2:], 1.0, "shard 3")
