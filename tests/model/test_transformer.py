import pytest
import torch

from vlfm.model.transformer import VLFMTransformer

ORDER, CHANNELS = 3, 2
SHAPES = {
    "coefficients": (2, CHANNELS, 8, 8, ORDER),
    "velocity": (2, CHANNELS, 8, 8),
    "direct": (2, CHANNELS, 8, 8),
}


def make(head="coefficients", **change):
    size = {"channels": CHANNELS, "positions": 8, "order": ORDER, "layers": 2, "heads": 2, "head_dim": 16}
    return VLFMTransformer(head=head, **{**size, "caption_channels": 6, **change})


def opened(model):
    """The network after some training, as far as tests can tell: no weight is zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def inputs(count=2, height=8, width=8):
    generator = torch.Generator().manual_seed(0)
    psi = torch.randn(count, CHANNELS, height, width, generator=generator)
    tokens = torch.randn(count, 5, 6, generator=generator)
    return psi, torch.linspace(0, 0.9, count), tokens, torch.ones(count, 5).bool()


@pytest.mark.parametrize("head", SHAPES)
def test_every_head_starts_at_zero_in_its_shape(head):
    output = make(head)(*inputs())
    assert output.shape == SHAPES[head]
    assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.parametrize("head", SHAPES)
def test_what_each_head_looks_at(head):
    model = opened(make(head))
    psi, t, tokens, mask = inputs()
    with torch.no_grad():
        base = model(psi, t, tokens, mask)
        assert torch.equal(base, model(psi + 1, t, tokens, mask)) == (head == "direct")
        assert not torch.allclose(base, model(psi, t + 0.1, tokens, mask), atol=1e-4)
        assert not torch.allclose(base, model(psi, t, tokens.flip(0), mask), atol=1e-4)


def test_scales_multiply_what_the_heads_say():
    mean_square = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    for head, expected in (
        ("coefficients", (mean_square / mean_square.sum()).sqrt().float()),
        ("velocity", torch.tensor(30.0)),
        ("direct", torch.tensor(1.0)),
    ):
        model = opened(make(head))
        before = model(*inputs())
        model.set_scales(mean_square, 1.0, velocity=30.0)
        assert model.latent_scale.item() == pytest.approx(mean_square.sum().item() ** 0.5)
        assert torch.allclose(model(*inputs()), before * expected, rtol=1e-4, atol=1e-5)


def test_one_length_is_not_told_several_are():
    alone, several = make(), make(durations=(0.5, 1.0, 2.0))
    extra = several.state_dict().keys() - alone.state_dict().keys()
    assert extra and all(name.startswith("duration") for name in extra)
    model = opened(several)
    with torch.no_grad():
        short, long = (model(*inputs(), torch.full((2,), seconds)) for seconds in (0.5, 2.0))
        mixed = model(*inputs(), torch.tensor([0.5, 2.0]))
        plain = opened(alone)
        assert torch.equal(plain(*inputs()), plain(*inputs(), torch.ones(2)))
    assert (short - long).abs().max() > 1e-2
    assert torch.allclose(mixed, torch.stack([short[0], long[1]]), atol=1e-5)


@pytest.mark.parametrize("durations", [(0.5,), (0.5, 1.0)])
def test_masked_tokens_do_not_matter(durations):
    model = opened(make(durations=durations))
    psi, t, tokens, mask = inputs()
    mask[0, 3:] = False
    changed = tokens.clone()
    changed[~mask] = 7.0
    seconds = torch.tensor([0.5, 1.0])
    with torch.no_grad():
        assert torch.allclose(model(psi, t, tokens, mask, seconds), model(psi, t, changed, mask, seconds), atol=1e-5)
        changed[0, 0] = 7.0
        assert not torch.allclose(
            model(psi, t, tokens, mask, seconds), model(psi, t, changed, mask, seconds), atol=1e-3
        )


@pytest.mark.parametrize("height, width", [(8, 8), (4, 8), (8, 4), (12, 6), (16, 16)])
def test_positions_follow_the_shape_of_the_latents(height, width):
    """Row i of H and column j of W are told as `i · 8/H` and `j · 8/W`, in two halves, so that a place in the frame
    is told alike at every size; written out here, since a backbone could as well crop a fixed square.
    """
    embed = make().backbone.pos_embed
    nothing = torch.zeros(1, CHANNELS, height, width)
    told = (embed(nothing) - embed.proj.bias)[0].reshape(height // 2, width // 2, -1)
    half = told.shape[-1] // 2
    rates = 10000.0 ** -(torch.arange(half // 2) / (half // 2))

    def waves(count):
        angle = torch.arange(count)[:, None] * (4 / count) * rates
        return torch.cat([angle.sin(), angle.cos()], -1)

    assert torch.allclose(told[..., :half], waves(width // 2)[None].expand(height // 2, -1, -1), atol=1e-5)
    assert torch.allclose(told[..., half:], waves(height // 2)[:, None].expand(-1, width // 2, -1), atol=1e-5)
    assert make()(*inputs(2, height, width)).shape == (2, CHANNELS, height, width, ORDER)


def test_gradient_checkpointing_recomputes_and_changes_nothing():
    calls, gradients = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = opened(make()).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        counted = []
        attention = model.backbone.transformer_blocks[0].attn1
        attention.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        model(*inputs()).square().mean().backward()
        calls.append(len(counted))
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert calls == [1, 2]
    assert gradients[0] and all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("head", SHAPES)
def test_a_saved_network_is_the_same_network(head, tmp_path):
    model = opened(make(head, durations=(0.5, 1.0)))
    model.set_scales(torch.tensor([4.0, 1.0, 0.25]), 0.2, 30.0)
    model.save_pretrained(tmp_path)
    again = VLFMTransformer.from_pretrained(tmp_path, use_safetensors=True).eval()
    seconds = torch.tensor([0.5, 1.0])
    with torch.no_grad():
        assert torch.equal(model(*inputs(), seconds), again(*inputs(), seconds))


EXTRAS = {"convolution": 3, "caption_in_adaln": True}


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_added_starts_at_zero_and_is_read_back(extra, tmp_path):
    model = make(**{extra: EXTRAS[extra]})
    assert not model(*inputs()).any()
    opened(model).save_pretrained(tmp_path)
    again = VLFMTransformer.from_pretrained(tmp_path, use_safetensors=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(*inputs()), model(*inputs()))


def test_a_closed_gate_leaves_the_convolution_out():
    plain, convolved = make(gate=0.0), make(gate=0.0, convolution=5)
    hidden = torch.randn(2, 6, 32)
    block = convolved.backbone.transformer_blocks[0]
    block.grid = (2, 3)
    assert not block.convolution(torch.randn(1, 32, 2, 3)).any()
    names = {name.replace(".block.", "."): value for name, value in block.block.state_dict().items()}
    plain.backbone.transformer_blocks[0].load_state_dict(names)
    told = {"timestep": torch.randn(2, 6 * 32), "encoder_hidden_states": torch.randn(2, 5, 32)}
    assert torch.equal(block(hidden, **told), plain.backbone.transformer_blocks[0](hidden, **told))


def test_a_convolution_sees_neighbours_in_both_directions():
    """An impulse at (2, 1) of 4×6 positions reaches its 3×3 neighbourhood and no other position of the convolution."""
    block = make(convolution=3, gate=1.0).backbone.transformer_blocks[0]
    block.block = torch.nn.Identity()
    block.norm = torch.nn.Identity()
    block.grid = (4, 6)
    hidden = torch.zeros(1, 24, 32)
    hidden[0, 2 * 6 + 1] = 1.0
    with torch.no_grad():
        reached = (block(hidden) != 0).any(-1).reshape(4, 6)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1:4, 0:3] = True
    assert torch.equal(reached, expected)


def test_shapes_other_than_square_are_convolved_as_they_lie():
    model = opened(make(convolution=3))
    psi, t, tokens, mask = inputs(height=8, width=4)
    with torch.no_grad():
        assert model(psi, t, tokens, mask).shape == (2, CHANNELS, 8, 4, ORDER)


def test_adaln_is_told_the_mean_token_in_deviations_of_the_trainings_captions():
    model = opened(make(caption_in_adaln=True))
    embedding = model.backbone.adaln_single.emb
    pooled = torch.randn(50, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 3 + 7
    model.set_caption_statistics(pooled.mean(0), pooled.square().mean(0))
    assert torch.allclose(embedding.mean.double(), pooled.mean(0), rtol=1e-5)
    assert torch.allclose(embedding.spread.double(), pooled.std(0, correction=0), rtol=1e-4)
    t = inputs()[1]
    tokens, mask = torch.full((2, 3, 6), 7.0), torch.tensor([[True, True, False], [True, False, False]])
    tokens[0, 0, 0] += 2.0
    with torch.no_grad():
        out = embedding(t * 1000, tokens, mask, hidden_dtype=torch.float32)
        # What lies behind the mask is not looked at.
        tokens[:, 2] = 1e6
        assert torch.equal(out, embedding(t * 1000, tokens, mask, hidden_dtype=torch.float32))
        assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("mean", [2.0, 0.1])  # the square of the latter is rounded
def test_captions_that_are_all_the_same_are_told_as_one(mean):
    model = make(caption_in_adaln=True)
    means = torch.full((6,), mean, dtype=torch.float64)
    model.set_caption_statistics(means, (means.square() * 3) / 3 + 1e-18)
    embedding = model.backbone.adaln_single.emb
    with torch.no_grad():
        assert opened(model)(*inputs()).isfinite().all()
        t, mask = inputs()[1], torch.ones(2, 3, dtype=torch.bool)
        # Rounding, of float16 for example, is nothing to tell.
        one, other = (
            embedding(t * 1000, torch.full((2, 3, 6), value), mask, hidden_dtype=torch.float32)
            for value in (mean, mean * (1 + 1e-4))
        )
        assert torch.equal(one, other)
