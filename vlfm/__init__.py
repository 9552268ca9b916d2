"""Video Latent Flow Matching: one smooth path per clip through an image model's latents."""

__version__ = "0.1.0"
