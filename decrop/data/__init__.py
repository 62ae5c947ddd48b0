"""Datasets, the limited data and their augmentation."""
