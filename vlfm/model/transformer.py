"""The network: a caption-conditioned DiT (diffusers' PixArt transformer) with the flow's heads on top."""

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from vlfm.flow.heads import HEADS, CoefficientsHead

# Of the patch embedding at the start; measured on the demo, where 1 makes training stall at the mean.
INPUT_GAIN = 0.2


class VLFMTransformer(ModelMixin, ConfigMixin):
    """`F_θ(ψ_t, c, t)`, in units where the latents have unit mean square.

    Args:
        head: `coefficients`: predicts Ĥ, C·s channels.
        channels: C. positions: h = w of the latents. order: s. duration: T, seconds.
        patch, layers, heads, head_dim: of the DiT; DiT-XL/2 is patch 2, 28 layers, 16 heads of 72.
        caption_channels: width of the caption embeddings.
        gate: what the residual branches start multiplied by. 0 is adaLN-zero (Peebles & Xie, 2023), right for deep
            networks; 1 learns several times faster in shallow ones.
    """

    @register_to_config
    def __init__(
        self,
        head: str = "coefficients",
        channels: int = 4,
        positions: int = 32,
        order: int = 8,
        duration: float = 0.5,
        patch: int = 2,
        layers: int = 28,
        heads: int = 16,
        head_dim: int = 72,
        caption_channels: int = 384,
        gate: float = 0.0,
    ):
        super().__init__()
        self.head: CoefficientsHead = HEADS[head](order)
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
        # Root mean squares of the data, not learned: of the latents, of each order relative to them, and of the
        # captions' embeddings.
        self.register_buffer("latent_scale", torch.ones(()))
        self.register_buffer("order_scale", torch.ones(order))
        self.register_buffer("caption_scale", torch.ones(()))
        self._start(gate)

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
        for layer in (backbone.caption_projection.linear_1, backbone.caption_projection.linear_2):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            torch.nn.init.zeros_(layer.bias)

    def set_scales(self, mean_square: torch.Tensor, caption_mean_square: float) -> None:
        """Take the scales from E[H_n²], (s,), whose sum by Parseval is the latents' mean square, and from the
        captions' mean square.
        """
        total = mean_square.sum()
        self.latent_scale.copy_(total.sqrt())
        self.order_scale.copy_((mean_square / total).sqrt())
        self.caption_scale.fill_(caption_mean_square**0.5)

    def forward(self, psi: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Ĥ in units of `latent_scale`.

        Args:
            psi: (B, C, h, w), scaled. t: (B,), seconds in [0, T].
            tokens: (B, L, D), as the encoder gives them. mask: (B, L) bool.

        Returns:
            (B, C, h, w, s).
        """
        output = self.backbone(
            psi,
            encoder_hidden_states=tokens / self.caption_scale,
            # The backbone's frequencies were made for 1000 diffusion steps.
            timestep=t * (1000.0 / self.config.duration),
            encoder_attention_mask=mask.to(psi.dtype),
        ).sample
        return self.head.coefficients(output).float() * self.order_scale
