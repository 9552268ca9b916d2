"""Video Latent Flow Matching: one polynomial path per clip through an image model's latents."""

__version__ = "0.1.0"
