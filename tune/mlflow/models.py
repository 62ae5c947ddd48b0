"""MLflow models as classifiers to protect: those that load without unpickling."""

import tempfile
from pathlib import Path
from typing import Any

from decrop.classifiers.sources import Network, load_program
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from decrop.documents import parse_yaml
from decrop.errors import InputError, one_line
from decrop.files import read_text

# What MLflow's pytorch flavour calls a model that it saves as a program of torch.export.
_PROGRAM = "model.pt2"


def model_program(settings: ClassifierSettings, dataset: Dataset) -> Network:
    """Download the model at `classifier.source` and load its program of torch.export.

    Of MLflow's flavours only pytorch with serialization_format="pt2" keeps a network without
    pickle; the tracking server is that of MLFLOW_TRACKING_URI.
    """
    source = settings.source
    with tempfile.TemporaryDirectory() as folder:
        path = _program(_download(source, folder), source)
        return load_program(path, settings, dataset, blamed=f"classifier.source: {source}")


def _download(source: str, folder: str) -> Path:
    # Slow to import, and needed for such sources alone.
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=folder))
    except (MlflowException, OSError) as error:
        raise InputError(
            f"classifier.source: {source} cannot be downloaded "
            f"({one_line(str(error), 200)}); MLFLOW_TRACKING_URI names the server."
        ) from None


def _program(model: Path, source: str) -> Path:
    description = model / "MLmodel"
    if not description.is_file():
        raise InputError(f"classifier.source: {source} is not an MLflow model; it has no MLmodel.")
    flavours = _flavours(description, source)
    data = (flavours.get("pytorch") or {}).get("model_data", "data")
    path = model / str(data) / _PROGRAM
    if "pytorch" in flavours and path.resolve().is_relative_to(model.resolve()) and path.is_file():
        return path
    raise InputError(
        f"classifier.source: {source} (flavours {', '.join(flavours) or 'none'}) would have to be "
        "unpickled, which can run any code, so it is not loaded; save it with "
        "mlflow.pytorch.log_model(…, serialization_format='pt2')."
    )


def _flavours(description: Path, source: str) -> dict[str, Any]:
    try:
        found = parse_yaml(read_text(description), "MLmodel")
    except InputError:
        found = None
    flavours = found.get("flavors") if isinstance(found, dict) else None
    if not isinstance(flavours, dict):
        raise InputError(f"classifier.source: {source} has an MLmodel that names no flavours.")
    return flavours
