"""A classifier behind a real MLflow model server is certified as it is in this process."""

import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import pytest

from decrop.cache import ContentCache
from decrop.classifiers.storage import store_classifier
from decrop.cli.main import run
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.trial.prepare import load_inputs
from tests.commands import set_options
from tests.decrop.digits_trial import CPU, SHORT, certificates, short_trial
from tests.mlflow_server.processes import free_port
from tests.tune.mlflow.test_registry import process, served_model_command

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = (
    *(one for one in SHORT if not one.startswith("classifier.")),
    "execution.precision=fp32",
    "sigma=0.12",
)


def certified(out: Path, *more: str) -> list[tuple[object, ...]]:
    options = set_options(*SETTINGS)
    assert run(["certify", "digits", *options, *more, "--out", str(out)]) == 0
    return certificates(CertificateTable.read_tsv(out))


@pytest.mark.slow
def test_certificates_over_mlflow_are_those_of_the_white_box(tmp_path: Path) -> None:
    config = short_trial("classifier.training.epochs=8")
    inputs = load_inputs(config, ContentCache(tmp_path / "cache"), CPU)
    store_classifier(inputs.classifier, inputs.class_names, tmp_path / "classifier")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(tmp_path / "model"),
            python_model=str(Path(__file__).with_name("served_classifier.py")),
            artifacts={"classifier": str(tmp_path / "classifier")},
            pip_requirements=[f"mlflow=={version('mlflow')}"],
        )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = served_model_command(str(tmp_path / "model"), port)
    with process(command, f"{url}/ping", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"):
        over_http = certified(
            tmp_path / "endpoint.tsv",
            *("--weights", f"{url}/invocations", "--set", "classifier.endpoint.retries=1"),
        )
    weights = tmp_path / "classifier" / "weights.safetensors"
    white_box = certified(tmp_path / "white.tsv", "--weights", str(weights))
    assert over_http == white_box
    assert any(predicted >= 0 for _, _, predicted, *_ in white_box)
    spent = read_json(tmp_path / "endpoint.tsv.queries")
    samples = sum(row[4] for row in white_box)
    assert spent["asked"] == spent["answered"] == samples + 1 and spent["retries"] == 0
