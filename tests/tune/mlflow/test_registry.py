"""A registered bundle, as MLflow keeps and serves it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import decrop
from decrop.bundle import load_bundle
from decrop.data.datasets import load_dataset
from decrop.data.limited import take
from decrop.errors import InputError
from tests.commands import decrop as command
from tests.decrop.bundle.test_sources import FACTORY, bundle_of
from tests.mlflow_server.processes import START_SECONDS, eventually, free_port
from tests.tune.runs import COMMAND, FinishedSweep
from tune.directory import SweepDirectory
from tune.export import best_trial
from tune.mlflow.registry import _usage, serving_commands
from tune.mlflow.served_model import ServedBundle

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "digits denoiser"
BIN = Path(sys.executable).parent
IMAGES = 6


@pytest.fixture
def directory(finished: FinishedSweep, tmp_path: Path) -> SweepDirectory:
    """A copy of the finished sweep, for its store is written to."""
    path = tmp_path / "sweep"
    shutil.copytree(finished.directory.path, path)
    return SweepDirectory.open(path)


def register(directory: SweepDirectory, to: Path, *options: object) -> dict[str, Any]:
    ran = command("export", directory.path, "--to", to, "--register", NAME, "--json", *options)
    assert ran.code == 0, ran.out + ran.err
    assert f"of {NAME}, now its champion" in ran.out
    return dict(ran.last_line)


def store(directory: SweepDirectory) -> str:
    return f"sqlite:///{directory.mlflow_database_path}"


def test_the_newest_is_the_champion_and_the_one_before_is_previous(
    directory: SweepDirectory, tmp_path: Path
) -> None:
    best = best_trial(directory)
    documents = [
        register(directory, tmp_path / "first"),
        register(directory, tmp_path / "second", "--trial", 0),
        register(directory, tmp_path / "third"),
    ]
    assert [document["version"] for document in documents] == [1, 2, 3]
    client = MlflowClient(store(directory))
    assert client.get_registered_model(NAME).aliases == {"champion": 3, "previous": 2}
    runs = [client.get_run(client.get_model_version(NAME, str(n)).run_id) for n in (1, 2, 3)]
    names = [run.info.run_name for run in runs]
    assert names == [f"final {number} (test)" for number in (best, 0, best)]
    version = client.get_model_version(NAME, "2")
    result = directory.final(0).read_result()
    assert result is not None
    accuracy = 100 * result["certified_accuracy"]["0.0"]
    assert f"{accuracy:.1f} % at r = 0" in version.description
    assert "σ = " in version.description
    usage = client.get_registered_model(NAME).description
    assert f'mlflow.pyfunc.load_model(\n    "models:/{NAME}@champion"\n)' in usage
    assert "float32 [B, 1, 8, 8] in [0,1]" in usage
    # One's own stays.
    client.update_registered_model(NAME, "mine")
    register(directory, tmp_path / "fourth")
    assert client.get_registered_model(NAME).description == "mine"


def test_what_is_kept_is_code_and_the_bundle_without_a_pickle(
    directory: SweepDirectory, tmp_path: Path
) -> None:
    register(directory, tmp_path / "bundle")
    (model,) = directory.mlflow_artifacts_path.rglob("MLmodel")
    kept = {
        path.relative_to(model.parent).as_posix()
        for path in model.parent.rglob("*")
        if path.is_file()
    }
    bundle = {
        f"artifacts/bundle/{path.relative_to(tmp_path / 'bundle').as_posix()}"
        for path in (tmp_path / "bundle").rglob("*")
        if path.is_file()
    }
    assert bundle <= kept
    rest = {"MLmodel", "served_model.py", "requirements.txt", "conda.yaml", "python_env.yaml"}
    assert kept - bundle == rest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--register", "a/b"], "--register 'a/b': must be a name without '/' and ':'"),
        (["--register", " "], "must be a name"),
        (["--register", NAME, "--without-classifier"], "served with its classifier"),
        (["--tracking-uri", "http://127.0.0.1:5000"], "no effect without --register"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_anything_is_written(
    finished: FinishedSweep, tmp_path: Path, options: list[str], message: str
) -> None:
    to = tmp_path / "bundle"
    ran = command("export", finished.directory.path, "--to", to, *options)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())
    assert not to.exists()


def answer(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answered:
        text = answered.read().decode()
    return json.loads(text) if data is not None else text


def alive(url: str) -> bool:
    try:
        answer(url)
    except (urllib.error.URLError, OSError):
        return False
    return True


def served_model_command(model: str, port: int) -> list[str]:
    """MLflow's own server of a model, in this environment."""
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    return [*serve, "--model-uri", model, "--port", str(port)]


@contextmanager
def process(command: list[str], url: str, **variables: str) -> Iterator[None]:
    """A server in a process group of its own, from when it answers until it has ended."""
    started = subprocess.Popen(
        command,
        # As where the environment of decrop is active: MLflow starts a command that lies there.
        env={**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: alive(url) or started.poll() is not None, START_SECONDS)
        assert started.poll() is None, started.communicate()[0]
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        started.communicate(timeout=60)


def test_the_server_says_which_images_it_does_not_take() -> None:
    served = ServedBundle()
    served._smoothed = SimpleNamespace(certify=refused)
    with pytest.raises(MlflowException, match="but are from 0 to 255") as error:
        served.predict(None, np.zeros((1, 1, 8, 8)))
    assert error.value.get_http_status_code() == 400


def test_a_bundle_whose_classifier_is_code_is_served(tmp_path: Path) -> None:
    arguments = "classifier.arguments={classes: 10, size: 8}"
    bundle = bundle_of(tmp_path, f"classifier.source={FACTORY}", arguments)
    served = ServedBundle()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(bundle)}))
    assert len(served.predict(None, np.zeros((2, 1, 8, 8), np.float32))) == 2
    usage = _usage(load_bundle(bundle, trust_code=True), NAME)
    assert f"imports `{FACTORY}`" in usage
    # In a window of 1024 pixels, beside MLflow's assistant, longer ones are cut off.
    blocks = usage.split("```")[1::2]
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 58


def refused(images: Any) -> None:
    raise InputError("images must be uint8, or floats in [0,1], but are from 0 to 255.")


@pytest.mark.slow
def test_the_champion_answers_over_http(directory: SweepDirectory, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    register(directory, bundle)
    smoothed = decrop.load(bundle)
    recorded = smoothed.bundle.certificates
    dataset = load_dataset(smoothed.bundle.config.dataset)
    surest = np.argsort(-recorded.radius)[:IMAGES]
    indices = torch.from_numpy(recorded.idx[surest].astype(np.int64))
    images = take(dataset.test, indices).images.float() / 255
    port, serving_port = free_port(), free_port()
    tracking, serving = (f"http://127.0.0.1:{n}" for n in (port, serving_port))
    dashboard = [*COMMAND, "dashboard", str(directory.path)]
    *_, printed = serving_commands(directory, NAME)
    assert printed.endswith("--port 5001") and "--env-manager local" in printed
    served = served_model_command(f"models:/{NAME}@champion", serving_port)
    with (
        process([*dashboard, "--port", str(port)], f"{tracking}/health"),
        process(
            served,
            f"{serving}/ping",
            MLFLOW_TRACKING_URI=tracking,
            MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
        ),
    ):
        rows = answer(f"{serving}/invocations", {"inputs": images.tolist()})["predictions"]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            answer(f"{serving}/invocations", {"inputs": images[:, :, 1:].tolist()})
    assert len(rows) == IMAGES
    assert all(row.keys() == {"label", "class", "radius", "abstain"} for row in rows)
    for row in rows:
        assert row["abstain"] == (row["class"] == -1) == (row["label"] == "")
        assert row["abstain"] or row["label"] == smoothed.class_names[row["class"]]
        assert row["radius"] == 0 if row["abstain"] else row["radius"] >= 0
    # Noise is new in every call: an image may abstain that did not, but not be of another class.
    # Which images are certified, and so which are sure, differs between kinds of processors.
    classes = np.asarray([row["class"] for row in rows])
    expected = recorded.predict[surest]
    certified = expected >= 0
    assert ((classes == expected) | (classes == -1))[certified].all()
    assert (classes == expected)[certified].any()
