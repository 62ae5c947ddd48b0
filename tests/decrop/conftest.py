"""Finished short trials, made once; tests only read them.

What takes seconds to import is imported by the fixtures, for every test of decrop loads this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from decrop.cache import ContentCache
    from decrop.evaluation.record import Split
    from decrop.trial.folder import TrialFolder
    from decrop.trial.inputs import TrialInputs


@pytest.fixture(scope="session", autouse=True)
def kernels_on_one_thread() -> Iterator[None]:
    """Small tensors wait for a second thread longer than they take, above all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ContentCache:
    from decrop.cache import ContentCache

    return ContentCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def inputs(cache: ContentCache) -> TrialInputs:
    from decrop.trial.prepare import load_inputs
    from tests.decrop.digits_trial import CPU, short_trial

    return load_inputs(short_trial(), cache, CPU)


@pytest.fixture(scope="session")
def held_out_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """An uninterrupted trial, scored on held-out images."""
    return _trial(inputs, cache, tmp_path_factory.mktemp("held_out"), "held_out")


@pytest.fixture(scope="session")
def final_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """An uninterrupted training on the whole limited data, certified on test images."""
    return _trial(inputs, cache, tmp_path_factory.mktemp("final"), "test")


@pytest.fixture(scope="session")
def fixed_trial(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> TrialFolder:
    """The same training, certified with equally many samples of each image."""
    from tests.decrop.digits_trial import FIXED

    return _trial(inputs, cache, tmp_path_factory.mktemp("fixed"), "test", FIXED)


def _trial(
    inputs: TrialInputs, cache: ContentCache, path: Path, split: Split, *changes: str
) -> TrialFolder:
    from decrop.trial.folder import TrialFolder
    from decrop.trial.run import run_trial
    from tests.decrop.digits_trial import short_trial

    folder = TrialFolder(path)
    list(run_trial(short_trial(*changes), inputs, folder, cache, split=split))
    return folder


@pytest.fixture(scope="session")
def exported(
    final_trial: TrialFolder, inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of `final_trial`, with its classifier."""
    from tests.decrop.digits_trial import export

    return export(final_trial, inputs, tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture(scope="session")
def fixed_exported(
    fixed_trial: TrialFolder, inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of `fixed_trial`, with its classifier."""
    from tests.decrop.digits_trial import export

    return export(fixed_trial, inputs, tmp_path_factory.mktemp("fixed_exported") / "bundle")
