"""Tables of components: what each must have, and one of each kind added and used."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import decrop
from decrop.config import DenoiserSettings
from decrop.config.certification import CERTIFICATES
from decrop.config.classifier_source import (
    CLASSIFIERS,
    SOURCES,
    ClassifierArchitectureComponent,
    SourceComponent,
)
from decrop.config.classifier_training import (
    CLASSIFIER_OBJECTIVES,
    ClassifierObjectiveComponent,
)
from decrop.config.components import Component, Table
from decrop.config.data import DATASETS
from decrop.config.denoiser import DENOISER_SOURCES, DENOISERS, DenoiserComponent
from decrop.config.prior import PRIORS
from decrop.config.synthesis import ATTACKS
from decrop.config.training import OBJECTIVES, ObjectiveComponent
from decrop.data.datasets import Dataset
from decrop.data.images import InMemoryImages
from decrop.networks.small_cnn import SmallCNN
from decrop.smoothing.certificates import cohen_certificates
from decrop.synthesis.boundary import Method
from decrop.training.losses import LossTerms
from tests.refusals import one_line

TABLES: dict[str, Table[Any]] = {
    "denoiser.source": DENOISERS,
    "boundary.attack": ATTACKS,
    "prior.kind": PRIORS,
    "certification.certificate": CERTIFICATES,
    "dataset.name": DATASETS,
    "training.objective": OBJECTIVES,
    "classifier.training.objective": CLASSIFIER_OBJECTIVES,
    "classifier.source": SOURCES,
    "the form of denoiser.source": DENOISER_SOURCES,
    "classifier.surrogate.architecture": CLASSIFIERS,
}
NEW = "of_a_test"
RATE = "training.learning_rate"


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_component_has_a_builder_and_a_line_of_help(table: Table[Any]) -> None:
    for name, component in table.items():
        assert component.name == name
        assert component.help and "\n" not in component.help and component.help[-1] != "."
        built = component.resolved()
        assert callable(built) or isinstance(built, Method)
        assert f"`{name}`" in table.markdown() and name in table.help


@pytest.mark.parametrize("setting", TABLES)
def test_the_readme_lists_every_component(setting: str) -> None:
    rows = f"| `{setting}` | | |\n|---|---|---|\n{TABLES[setting].markdown()}"
    assert rows in (Path(decrop.__file__).parent / "README.md").read_text()


def test_a_name_is_taken_once() -> None:
    table = Table(Component("one", "the first", "math:sqrt"))
    with pytest.raises(ValueError, match="one already"):
        table.add(Component("one", "another", "math:sqrt"))
    assert table.build("one", 4) == 2


class _Shift(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.shift


def _denoiser(settings: DenoiserSettings, image_channels: int) -> nn.Module:
    return _Shift(image_channels)


def _attack(estimator: Any, settings: Any) -> Any:
    def generate(images: np.ndarray) -> np.ndarray:
        return np.clip(images + settings.epsilon, 0, 1).astype(np.float32)

    return SimpleNamespace(generate=generate)


def _dataset(_: Any) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = InMemoryImages(images, torch.arange(40) % 2)
    return Dataset(
        name=NEW, train=split, test=split, class_names=("a", "b"), mean=(0.5,), std=(0.3,)
    )


def _objective(batch: Any, networks: Any, _: Any, __: float | None) -> LossTerms:
    return LossTerms(
        squared_error=networks.denoise(batch.clean + batch.noise, batch.sigma).square().mean()
    )


def _no_loss(logits: Tensor, labels: Tensor, _: Any) -> dict[str, Tensor]:
    return {"cross_entropy": 0 * logits.sum(), "total": 0 * logits.sum()}


def _source(settings: Any, dataset: Dataset) -> Any:
    from decrop.classifiers.sources import Network

    return Network(SmallCNN(image_channels=1, class_count=2), settings.source)


@pytest.fixture
def one_of_each() -> Iterator[None]:
    added = [
        (DENOISERS, DenoiserComponent(NEW, "a shift", _denoiser)),
        (ATTACKS, Component(NEW, "a brighter image", Method(_attack, frozenset({"epsilon"})))),
        (CERTIFICATES, Component(NEW, "CERTIFY again", cohen_certificates)),
        (DATASETS, Component(NEW, "noise", _dataset)),
        (OBJECTIVES, ObjectiveComponent(NEW, "a small output", _objective)),
        (CLASSIFIER_OBJECTIVES, ClassifierObjectiveComponent(NEW, "no loss at all", _no_loss)),
        (CLASSIFIERS, ClassifierArchitectureComponent(NEW, "a small network", SmallCNN)),
        (SOURCES, SourceComponent(NEW, "a test's", _source, form="test!", pattern="test!")),
    ]
    for table, component in added:
        table.add(component)  # type: ignore[arg-type]
    yield
    for table, _ in added:
        table.remove(NEW)


SWEEP: dict[str, Any] = {
    "name": "one-of-each",
    "trials": 2,
    "trial": {
        "dataset": {"name": NEW},
        "limited": {"fraction": 1.0, "held_out_fraction": 0.5},
        "classifier": {"source": "test!", "mean": [0.5], "std": [0.3]},
        "denoiser": {"source": NEW},
        "boundary": {"attack": NEW},
        "training": {"objective": NEW, "epochs": 1, "discriminator_epochs": 0, "batch_size": 10},
        "certification": {
            "procedure": "fixed",
            "certificate": NEW,
            "estimation_samples": 100,
            "held_out_samples": 20,
            "pruning_samples": 20,
            "failure_probability": 0.01,
            "test_images": 4,
        },
    },
    "space": {RATE: {"choice": [0.001, 0.01]}},
}


CLASSIFIER_SWEEP = {
    **SWEEP,
    "trial": {
        **SWEEP["trial"],
        "classifier": {
            "source": NEW,
            "mean": [0.5],
            "std": [0.3],
            "training": {"objective": NEW, "epochs": 1, "trained_on": "limited"},
        },
        "denoiser": {"source": "none"},
        "training": {"evaluations": 1},
    },
    "space": {f"classifier.{RATE}": SWEEP["space"][RATE]},
}


@pytest.mark.parametrize(
    ("document", "trained"),
    [(SWEEP, "denoiser.safetensors"), (CLASSIFIER_SWEEP, "classifier")],
    ids=["denoiser", "classifier"],
)
def test_what_is_added_to_the_tables_works_from_a_sweep_file(
    tmp_path: Path, one_of_each: None, document: dict[str, Any], trained: str
) -> None:
    from decrop.cache import ContentCache
    from decrop.trial.folder import TrialFolder
    from decrop.trial.prepare import load_inputs
    from decrop.trial.run import run_trial
    from tune.space import trial_config_for
    from tune.sweep_file import load_sweep

    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(document))
    sweep = load_sweep(str(file))
    config = trial_config_for(sweep, dict.fromkeys(sweep.space, 0.01))
    folder = TrialFolder(tmp_path / "trial")
    inputs = load_inputs(config, ContentCache(tmp_path / "cache"), torch.device("cpu"))
    *_, last = run_trial(config, inputs, folder, ContentCache(tmp_path / "cache"), split="test")
    assert last.finished and folder.result_path.exists() and (folder.path / trained).exists()


def test_what_no_table_has_is_refused_with_the_names_that_it_has() -> None:
    from decrop.documents import trial_config

    for path, table in TABLES.items():
        if path.endswith(".source"):
            continue
        *groups, last = path.split(".")
        document: dict[str, Any] = {last: "nothing_such"}
        for group in reversed(groups):
            document = {group: document}
        said = one_line(trial_config, document, source="my.yaml")
        assert f"'nothing_such': must be {table.names}" in said


def test_builders_of_certificates_agree_in_their_signature() -> None:
    for component in CERTIFICATES.values():
        named = inspect.signature(component.resolved()).parameters
        assert list(named)[:4] == [
            "selection_counts",
            "estimation_counts",
            "sigma",
            "failure_probability",
        ]
