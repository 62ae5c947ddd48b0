"""Stage 2: losses and training of the denoiser."""
