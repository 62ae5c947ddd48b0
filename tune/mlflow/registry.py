"""Bundles in MLflow's model registry, and the servers of a sweep's pages and models."""

import os
import shlex
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import numpy as np

from decrop.bundle import Bundle, load_bundle
from decrop.bundle.usage import imported_code
from decrop.errors import InputError
from decrop.smoothing.backend import backend_of
from tune.directory import SweepDirectory
from tune.mlflow.client import CHAMPION, PREVIOUS, sqlite_uri
from tune.mlflow.experiment import experiment_page
from tune.mlflow.tracker import Tracker
from tune.mlflow.trial_view import certified_sentence
from tune.space import kind_of

_MODEL = "model"


def register_bundle(
    directory: SweepDirectory,
    number: int,
    bundle: Path,
    name: str,
    *,
    tracking_uri: str | None = None,
    trust_code: bool = False,
) -> int:
    """Register a trial's bundle as a new version of a model, the champion; return its number.

    The model lies at the trial's run; `tracking_uri` and `trust_code` are as for `Tracker` and
    `load_bundle`.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    loaded = load_bundle(bundle, trust_code=trust_code)
    if backend_of(loaded.classifier).costs:
        raise InputError(
            f"--register {name}: the classifier is behind {loaded.classifier.architecture}; only a "
            "bundle with its classifier can be served."
        )
    tracker = Tracker(directory, tracking_uri)
    tracker.sync()
    final = directory.final(number).result_path.exists()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / _MODEL
        save_model(loaded, bundle, model)
        return tracker.register_model(
            f"final/{number}" if final else f"trials/{number}",
            model,
            name,
            description=_description(loaded),
            usage=_usage(loaded, name),
        )


def save_model(loaded: Bundle, bundle: Path, destination: Path) -> None:
    """Write a bundle as a model of MLflow's, whose code is `served_model.py` and no pickle."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    shape = loaded.result.image_shape
    outputs = {
        "label": DataType.string,
        "class": DataType.long,
        "radius": DataType.double,
        "abstain": DataType.boolean,
    }
    with warnings.catch_warnings():
        # That there is no example of an input; the signature says what is one.
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(destination),
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"bundle": str(bundle.resolve())},
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
                outputs=Schema([ColSpec(kind, column) for column, kind in outputs.items()]),
            ),
            pip_requirements=[f"{name}=={version(name)}" for name in ("decrop", "mlflow", "torch")],
        )


def _description(loaded: Bundle) -> str:
    scores, config = loaded.result.scores, loaded.config
    result = {
        "split": loaded.result.split,
        "images": scores.images,
        "certified_accuracy": scores.certified_accuracy,
        "average_certified_radius": scores.average_certified_radius,
    }
    return (
        f"{kind_of(config).in_front}{config.classifier.source} classifier ({config.dataset.name}), "
        f"smoothed with σ = {config.sigma:g}. {certified_sentence(result)} Images are float32 in "
        "[0,1]; answers are label, class, certified L2 radius and whether it abstains. The model's "
        "own page says how to load it."
    )


def _usage(loaded: Bundle, name: str) -> str:
    """Say in Markdown how a registered model is used, for the page that has all its versions.

    In short lines, for narrow windows cut long ones off.
    """
    shape = loaded.result.image_shape
    uri = f"models:/{name}@{CHAMPION}"
    return "\n".join(
        [
            f"A smoothed classifier with certified radii, made by decrop. `{CHAMPION}` is the "
            f"version registered last, `{PREVIOUS}` the one before. Each says what it certifies. "
            "With this server's address in MLFLOW_TRACKING_URI:\n",
            "```python",
            "import mlflow",
            "",
            "model = mlflow.pyfunc.load_model(",
            f'    "{uri}"',
            ")",
            f"# images are float32 [B, {', '.join(map(str, shape))}] in [0,1]",
            "answers = model.predict(images)",
            "# a row an image: label, class, radius, abstain",
            "```\n",
            *_imports(loaded),
            "Over HTTP:\n",
            "```bash",
            "mlflow models serve \\",
            f"    --model-uri {shlex.quote(uri)} \\",
            f"    --env-manager local --port {SERVING_PORT}",
            "```",
        ]
    )


def _imports(loaded: Bundle) -> list[str]:
    """Say what must be importable where the model is loaded."""
    named = " and ".join(f"`{source}`" for source in imported_code(loaded.config))
    return [f"Loading it imports {named}, which must be installed there.\n"] if named else []


DEFAULT_PORT = 5000
SERVING_PORT = 5001


def dashboard_command(directory: SweepDirectory, port: int = DEFAULT_PORT) -> str:
    """Return the command that serves the sweep's page, as a user would type it."""
    port_option = "" if port == DEFAULT_PORT else f" --port {port}"
    return f"decrop dashboard {directory.quoted}{port_option}"


def dashboard_url(
    experiment_id: str, port: int = DEFAULT_PORT, *, server: str | None = None
) -> str:
    """Return the address at which that command, or a server, opens the sweep on its charts."""
    return (server or f"http://127.0.0.1:{port}").rstrip("/") + experiment_page(experiment_id)


def serving_commands(
    directory: SweepDirectory, model: str, tracking_uri: str | None = None
) -> list[str]:
    """Return what serves a registered model's champion, as a user would type it."""
    uri = tracking_uri or f"http://127.0.0.1:{DEFAULT_PORT}"
    served = (
        f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow models serve --model-uri "
        f"{shlex.quote(f'models:/{model}@{CHAMPION}')} --env-manager local --port {SERVING_PORT}"
    )
    return [served] if tracking_uri is not None else [f"{dashboard_command(directory)} &", served]


def serve(directory: SweepDirectory, experiment_id: str, port: int) -> NoReturn:
    """Become the server of the sweep's own store, on loopback, so that signals reach it itself.

    It prints the address of the sweep's page once it answers.
    """
    command = [
        sys.executable,
        "-m",
        "mlflow_server",
        "--store",
        sqlite_uri(directory.mlflow_database_path),
        "--artifacts",
        str(directory.mlflow_artifacts_path.absolute()),
        "--port",
        str(port),
        "--page",
        experiment_page(experiment_id),
    ]
    sys.stdout.flush()
    os.execv(sys.executable, command)
