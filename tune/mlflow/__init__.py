"""Views of sweeps and trainings in MLflow: whatever is new in their files is logged, once."""
