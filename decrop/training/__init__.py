"""Training: one loop for denoiser, prior, classifier and surrogate; their losses and folders."""
