"""The MLflow tracking server as one supervised process: `python -m mlflow_server --help`."""
