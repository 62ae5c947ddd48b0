"""Finished short trials, made once; tests only read them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from decrop.bundle import export_bundle
from decrop.cache import ContentCache
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.run import run_trial
from tests.decrop.digits_trial import CPU, FIXED, short_trial


@pytest.fixture(scope="session", autouse=True)
def kernels_on_one_thread() -> Iterator[None]:
    """Small tensors wait for a second thread longer than they take, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ContentCache:
    return ContentCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def inputs(cache: ContentCache) -> TrialInputs:
    return load_inputs(short_trial(), cache, CPU)


@pytest.fixture(scope="session")
def held_out_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """An uninterrupted trial, scored on held-out images."""
    folder = TrialFolder(tmp_path_factory.mktemp("held_out"))
    list(run_trial(short_trial(), inputs, folder, cache, split="held_out"))
    return folder


@pytest.fixture(scope="session")
def final_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """An uninterrupted training on the whole limited data, certified on test images."""
    folder = TrialFolder(tmp_path_factory.mktemp("final"))
    list(run_trial(short_trial(), inputs, folder, cache, split="test"))
    return folder


@pytest.fixture(scope="session")
def fixed_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """The same training, certified with equally many draws of each image."""
    folder = TrialFolder(tmp_path_factory.mktemp("fixed"))
    list(run_trial(short_trial(FIXED), inputs, folder, cache, split="test"))
    return folder


@pytest.fixture(scope="session")
def exported(
    final_trial: TrialFolder, inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of `final_trial`, with its classifier."""
    path = tmp_path_factory.mktemp("exported") / "bundle"
    export_bundle(
        final_trial, inputs.classifier, inputs.class_names, path, origin="Made for tests."
    )
    return path


@pytest.fixture(scope="session")
def fixed_exported(
    fixed_trial: TrialFolder, inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of `fixed_trial`, with its classifier."""
    path = tmp_path_factory.mktemp("fixed_exported") / "bundle"
    export_bundle(
        fixed_trial, inputs.classifier, inputs.class_names, path, origin="Made for tests."
    )
    return path
