"""Rejectors: networks that turn noisy copies of an image away (Sheikholeslami et al. 2022)."""
