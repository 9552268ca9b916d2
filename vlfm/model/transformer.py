"""The network: a caption-conditioned DiT (diffusers' PixArt transformer) with the flow's heads on top."""

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from vlfm.flow.heads import HEADS, CoefficientsHead


class VLFMTransformer(ModelMixin, ConfigMixin):
    """`F_θ(ψ_t, c, t)`, in units where the latents have unit mean square.

    Args:
        head: `coefficients`: predicts Ĥ, C·s channels.
        channels: C. positions: h = w of the latents. order: s. duration: T, seconds.
        patch, layers, heads, head_dim: of the DiT; DiT-XL/2 is patch 2, 28 layers, 16 heads of 72.
        caption_channels: width of the caption embeddings.
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
        # Global root mean square of the latents, and of each order relative to it: data, not learned.
        self.register_buffer("latent_scale", torch.ones(()))
        self.register_buffer("order_scale", torch.ones(order))
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """adaLN-zero: every block starts as the identity and the output at 0, which PixArt does not do itself."""
        zeroed = [self.backbone.proj_out, self.backbone.adaln_single.linear]
        zeroed += [block.attn2.to_out[0] for block in self.backbone.transformer_blocks]
        for layer in zeroed:
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        # A gate's share that no condition moves: PixArt's random table would scale blocks at random.
        for block in self.backbone.transformer_blocks:
            torch.nn.init.zeros_(block.scale_shift_table)

    def set_scales(self, mean_square: torch.Tensor) -> None:
        """Take the scales from E[H_n²], (s,): by Parseval their sum is the latents' mean square."""
        total = mean_square.sum()
        self.latent_scale.copy_(total.sqrt())
        self.order_scale.copy_((mean_square / total).sqrt())

    def forward(
        self, psi: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Ĥ in units of `latent_scale`.

        Args:
            psi: (B, C, h, w), scaled. t: (B,), seconds in [0, T].
            tokens: (B, L, D). mask: (B, L) bool.

        Returns:
            (B, C, h, w, s).
        """
        output = self.backbone(
            psi,
            encoder_hidden_states=tokens,
            # The backbone's frequencies were made for 1000 diffusion steps.
            timestep=t * (1000.0 / self.config.duration),
            encoder_attention_mask=mask.to(psi.dtype),
        ).sample
        return self.head.coefficients(output).float() * self.order_scale
