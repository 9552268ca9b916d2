"""What a network's output means: coefficients, a velocity or a latent, and the vector field that follows."""

from dataclasses import dataclass

from torch import Tensor

from vlfm.flow.path import VideoLatentPath, per_time


@dataclass(frozen=True)
class CoefficientsHead:
    """The network predicts `Ĥ(ψ_t, c, t)`; the field follows from Theorem 4.1's closed form (the default).

    order: s. The network emits C·s channels: channel `c·s + n` is the coefficient of order n of latent
    channel c.
    """

    order: int

    def out_channels(self, channels: int) -> int:
        """Channels the network must emit for latents of `channels` channels."""
        return channels * self.order

    def coefficients(self, output: Tensor) -> Tensor:
        """Output (B, C·s, *spatial) → Ĥ (B, C, *spatial, s), a view."""
        clips, channels, *spatial = output.shape
        if channels % self.order:
            raise ValueError(f"{channels} output channels are no multiple of the order {self.order}")
        return output.reshape(clips, channels // self.order, self.order, *spatial).movedim(2, -1)

    def field(self, output: Tensor, psi: Tensor, t: Tensor, path: VideoLatentPath) -> Tensor:
        """dψ/dt at (ψ, t) from the network's output (B, C·s, *spatial); shapes as `closed_form_field`."""
        return closed_form_field(self.coefficients(output), psi, t, path)


@dataclass(frozen=True)
class VelocityHead:
    """The paper's: the network predicts `F ≈ dψ_t/dt` itself (section 4.3)."""

    def out_channels(self, channels: int) -> int:
        return channels

    def field(self, output: Tensor, psi: Tensor, t: Tensor, path: VideoLatentPath) -> Tensor:
        """The output."""
        return output


@dataclass(frozen=True)
class DirectHead:
    """The ablation's (Table 1, second row): the network predicts the latent `û_t = F(c, t)`; there is no flow."""

    def out_channels(self, channels: int) -> int:
        return channels

    def field(self, output: Tensor, psi: Tensor, t: Tensor, path: VideoLatentPath) -> Tensor:
        """Raises `ValueError`: a latent alone does not determine a velocity."""
        raise ValueError("the direct head predicts latents, not a flow: evaluate it at each time instead")


def closed_form_field(coefficients: Tensor, psi: Tensor, t: Tensor, path: VideoLatentPath) -> Tensor:
    """Theorem 4.1 with the scale m: `F = (σ̇/σ)(ψ − m Ĥ g) + d/dt (m Ĥ g)`.

    coefficients (B, *shape, s), psi (B, [K,] *shape), t (B,) or (B, K) → psi's shape, per second. For the
    true H and ψ on the path it is dψ_t/dt exactly. σ ≥ σ_min > 0, so it is finite everywhere.
    """
    mean, mean_dot = path.scaled_mean(coefficients, t)
    sigma, sigma_dot = path.schedule.sigma(t)
    return per_time(sigma_dot / sigma, mean) * (psi - mean) + mean_dot
