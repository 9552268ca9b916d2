"""The theory page: the paper's lemmas and theorems measured on a run's own latents, decoder and model."""
