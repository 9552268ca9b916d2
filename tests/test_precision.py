import torch

from vlfm.precision import network_dtype


def test_precision_asked_for_is_given_and_auto_is_what_the_machine_multiplies(monkeypatch):
    assert network_dtype("float32", "cuda") == torch.float32
    assert network_dtype("bfloat16", "cpu") == torch.bfloat16
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert network_dtype("auto", "cpu") == dtype
        assert network_dtype("auto", torch.device("cuda", 0)) == dtype
