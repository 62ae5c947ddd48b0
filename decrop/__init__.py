"""Certified robustness for pretrained classifiers from little data (DE-CROP)."""
