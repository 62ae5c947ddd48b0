"""Finished tiny trials, made once; tests only read them."""

from pathlib import Path

import pytest

from decrop.bundle import export_bundle
from decrop.cache import ContentCache
from decrop.inputs import TrialInputs, load_inputs
from decrop.trial import run_trial
from decrop.trial_folder import TrialFolder
from tests.decrop.tiny import CPU, tiny_config


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ContentCache:
    return ContentCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def inputs(cache: ContentCache) -> TrialInputs:
    return load_inputs(tiny_config(), cache, CPU)


@pytest.fixture(scope="session")
def held_out_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """An uninterrupted trial, scored on held-out images."""
    folder = TrialFolder(tmp_path_factory.mktemp("held_out"))
    list(run_trial(tiny_config(), inputs, folder, cache, split="held_out"))
    return folder


@pytest.fixture(scope="session")
def final_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """An uninterrupted training on the whole limited data, certified on test images."""
    folder = TrialFolder(tmp_path_factory.mktemp("final"))
    list(run_trial(tiny_config(), inputs, folder, cache, split="test"))
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
