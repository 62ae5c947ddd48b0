"""Randomised smoothing: sampling under noise and certificates."""
