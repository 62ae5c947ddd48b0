"""The classifier to protect: its sources, weights, features and storage."""
