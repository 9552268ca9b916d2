"""The network: a caption-conditioned DiT (diffusers' PixArt transformer) with the flow's heads on top."""

from collections.abc import Sequence

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin

from vlfm.flow.heads import CoefficientsHead, DirectHead, VelocityHead
from vlfm.model.conditioning import TimeAndCaption
from vlfm.model.convolution import ConvolvedBlock

# The patch embedding's initial weights are scaled by this: on the demo, 1 makes training stall at the mean.
INPUT_GAIN = 0.2
# Sinusoids that tell a clip's length, and how far apart they put one that is twice as long.
DURATION_CHANNELS = 256
DURATION_OCTAVE = 100.0


class VLFMTransformer(ModelMixin, ConfigMixin):
    """`F_θ(ψ_t, c, t)`, in units where the latents have unit mean square.

    Args:
        head: what `forward` returns. `coefficients`: Ĥ, C·s channels. `velocity` (the paper's): dψ/dt, C channels.
            `direct` (Table 1, second row): the latent itself, C channels, from the caption and the time alone.
        channels: C. positions: side of the latents; other sizes and shapes work too, their positions spread over the
            same range. order: s.
        durations: lengths T of the clips, seconds. If there are several, each clip's is told to the network, as one
            token beside its caption's.
        patch, layers, heads, head_dim: of the DiT; DiT-XL/2 is patch 2, 28 layers, 16 heads of 72.
        caption_channels: width of the caption embeddings.
        gate: what the residual branches start multiplied by. 0 is adaLN-zero (Peebles & Xie, 2023), right for deep
            networks; 1 learns several times faster in shallow ones.
        convolution: side of the convolution before each block, odd; 0 for none. See `ConvolvedBlock`.
        caption_in_adaln: whether the caption's mean token joins the time in adaLN. See `TimeAndCaption`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        head: str = "coefficients",
        channels: int = 4,
        positions: int = 32,
        order: int = 8,
        durations: Sequence[float] = (0.5,),
        patch: int = 2,
        layers: int = 28,
        heads: int = 16,
        head_dim: int = 72,
        caption_channels: int = 384,
        gate: float = 0.0,
        convolution: int = 0,
        caption_in_adaln: bool = False,
    ):
        super().__init__()
        self.head = _make_head(head, order)
        self.backbone = PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=channels,
            out_channels=self.head.out_channels(channels),
            num_layers=layers,
            cross_attention_dim=heads * head_dim,
            sample_size=positions,
            patch_size=patch,
            caption_channels=caption_channels,
            # Given explicitly: at 128 positions the backbone would otherwise ask for image sizes as well.
            use_additional_conditions=False,
        )
        if caption_in_adaln:
            time = self.backbone.adaln_single.emb
            self.backbone.adaln_single.emb = TimeAndCaption(time, caption_channels, heads * head_dim)
        self.duration_embedding = None
        if len(durations) > 1:
            self.duration_waves = Timesteps(DURATION_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.duration_embedding = TimestepEmbedding(DURATION_CHANNELS, caption_channels)
        # Root mean squares of the data, not learned: of the latents, of each order relative to them, of the
        # captions' embeddings, and of dψ/dt.
        self.register_buffer("latent_scale", torch.ones(()))
        self.register_buffer("order_scale", torch.ones(order))
        self.register_buffer("caption_scale", torch.ones(()))
        if head == "velocity":
            self.register_buffer("velocity_scale", torch.ones(()))
        self._start(gate)
        if convolution:
            self.backbone.transformer_blocks = torch.nn.ModuleList(
                ConvolvedBlock(block, heads * head_dim, convolution, gate) for block in self.backbone.transformer_blocks
            )

    @torch.no_grad()
    def _start(self, gate: float) -> None:
        """The network before training: output 0, blocks as open as `gate` says, position and caption audible."""
        backbone = self.backbone
        for layer in (backbone.proj_out, backbone.adaln_single.linear):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        for block in backbone.transformer_blocks:
            # Rows: shift, scale, gate of attention; shift, scale, gate of the MLP. PixArt draws them at random.
            torch.nn.init.zeros_(block.scale_shift_table)
            block.scale_shift_table[[2, 5]] = gate
            # Cross-attention has no gate of its own.
            block.attn2.to_out[0].weight.mul_(gate)
            torch.nn.init.zeros_(block.attn2.to_out[0].bias)
        # At t = 0 the input is noise, to be ignored in favour of the position (of size 0.7) and the caption.
        backbone.pos_embed.proj.weight.mul_(INPUT_GAIN)
        conditions = [backbone.caption_projection.linear_1, backbone.caption_projection.linear_2]
        if self.config.caption_in_adaln:
            embedder = backbone.adaln_single.emb.caption_embedder
            conditions += [embedder.linear_1, embedder.linear_2]
        if self.duration_embedding is not None:
            conditions += [self.duration_embedding.linear_1, self.duration_embedding.linear_2]
        for layer in conditions:
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            torch.nn.init.zeros_(layer.bias)

    def matrices(self) -> dict[str, list[torch.nn.Parameter]]:
        """The weights of the blocks' linear layers, which the optimizer Muon is for.

        Returns:
            `by_rows`: those whose rows are divided among the attention's heads (queries, keys, values); `by_columns`:
            those whose columns are (its output); `whole`: all others.
        """
        blocks = self.backbone.transformer_blocks
        attentions = [module for module in blocks.modules() if isinstance(module, Attention)]
        by_rows = [layer.weight for each in attentions for layer in (each.to_q, each.to_k, each.to_v)]
        by_columns = [each.to_out[0].weight for each in attentions]
        known = set(map(id, [*by_rows, *by_columns]))
        layers = (module for module in blocks.modules() if isinstance(module, torch.nn.Linear))
        whole = [layer.weight for layer in layers if id(layer.weight) not in known]
        return {"by_rows": by_rows, "by_columns": by_columns, "whole": whole}

    def set_caption_statistics(self, mean: torch.Tensor, mean_square: torch.Tensor) -> None:
        """Take E[p] and E[p²] of the mean tokens p of the training's captions, (D,) each, if adaLN is told captions."""
        if self.config.caption_in_adaln:
            self.backbone.adaln_single.emb.set_statistics(mean, mean_square)

    def set_scales(self, mean_square: torch.Tensor, caption_mean_square: float, velocity: float = 1.0) -> None:
        """Take the scales from the data.

        Args:
            mean_square: E[H_n²], (s,); its sum by Parseval is the latents' mean square.
            caption_mean_square: of the entries of the captions' embeddings.
            velocity: root mean square of dψ/dt, per second, for latents of unit mean square. So the head `velocity`
                learns in unit scale.
        """
        total = mean_square.sum()
        self.latent_scale.copy_(total.sqrt())
        self.order_scale.copy_((mean_square / total).sqrt())
        self.caption_scale.fill_(caption_mean_square**0.5)
        if self.config.head == "velocity":
            self.velocity_scale.fill_(velocity)

    def forward(
        self,
        psi: torch.Tensor,
        t: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        duration: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the head predicts, in units of `latent_scale`.

        Args:
            psi: (B, C, h, w), scaled. The head `direct` does not look at it.
            t: (B,), in [0, 1]: the share of the clip that has passed, seconds over T.
            tokens: (B, L, D), as the encoder gives them. mask: (B, L) bool.
            duration: (B,), T in seconds; needed where there are several `durations`, else not looked at.

        Returns:
            `coefficients`: (B, C, h, w, s). `velocity`: (B, C, h, w), per second. `direct`: (B, C, h, w).
        """
        told = {"tokens": tokens, "mask": mask} if self.config.caption_in_adaln else None
        tokens = tokens / self.caption_scale
        if self.duration_embedding is not None:
            octaves = torch.log2(duration.float() / min(self.config.durations))
            length = self.duration_embedding(self.duration_waves(octaves * DURATION_OCTAVE).to(tokens.dtype))
            tokens = torch.cat([tokens, length[:, None].to(tokens.dtype)], 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if self.config.head == "direct":
            psi = torch.zeros_like(psi)
        if self.config.convolution:
            for block in self.backbone.transformer_blocks:
                block.grid = tuple(side // self.config.patch for side in psi.shape[-2:])
        output = self.backbone(
            psi,
            encoder_hidden_states=tokens,
            # The backbone's frequencies were made for 1000 diffusion steps.
            timestep=t * 1000.0,
            encoder_attention_mask=mask.to(psi.dtype),
            added_cond_kwargs=told,
        ).sample
        if self.config.head == "coefficients":
            return self.head.coefficients(output).float() * self.order_scale
        if self.config.head == "velocity":
            return output.float() * self.velocity_scale
        return output.float()


def _make_head(name: str, order: int) -> CoefficientsHead | VelocityHead | DirectHead:
    heads = {"coefficients": lambda: CoefficientsHead(order), "velocity": VelocityHead, "direct": DirectHead}
    return heads[name]()
