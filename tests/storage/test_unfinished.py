"""Pieces on disk: what is read back, and files that are no pieces."""

import json
import struct

import pytest
import torch

from vlfm.errors import VLFMError
from vlfm.storage.unfinished import load, save


def made(header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def tensor(**changes):
    return {"latents": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12], **changes}}


def test_a_piece_comes_back(tmp_path):
    latents = torch.randn(2, 3).half()
    save(tmp_path / "piece.safetensors", {"latents": latents})
    assert torch.equal(load(tmp_path / "piece.safetensors", "latents")["latents"], latents)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        b"\x80\x04.",
        b"PK\x03\x04" + bytes(60),
        made(b"[" * 50_000),
        made({}),
        made(tensor()),
        made(tensor(shape=[10**12]), bytes(12)),
        made(tensor(shape=[-2, -3]), bytes(12)),
        made(tensor(shape=[2**63, 2]), bytes(12)),
        made(tensor(data_offsets=[12, 0]), bytes(12)),
        made(tensor(data_offsets=[0, 10**18]), bytes(12)),
        made(tensor(dtype="PKL"), bytes(12)),
        made(tensor(), bytes(13)),
    ],
    ids=range(14),
)
def test_a_hostile_piece_is_refused_by_name(tmp_path, data):
    file = tmp_path / "piece.safetensors"
    file.write_bytes(data)
    with pytest.raises(VLFMError, match=r"piece\.safetensors is damaged"):
        load(file, "latents")
