"""Hyperparameter sweeps over DE-CROP with Ray Tune, Optuna and MLflow."""
