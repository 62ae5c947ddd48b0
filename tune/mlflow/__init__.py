"""MLflow shows a sweep directory: whatever is new in its files is logged, nothing twice."""
