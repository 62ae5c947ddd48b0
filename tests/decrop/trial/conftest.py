"""What tests of a trial share."""

from pathlib import Path

import pytest

from decrop.cache import ContentCache
from decrop.smoothing import collect
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from tests.decrop.digits_trial import (
    sample_nothing,
)
from tests.decrop.trial_sessions import Session


@pytest.fixture(autouse=True)
def plain_figures(
    final_trial: TrialFolder, fixed_trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draw nothing: it takes longer than the rest of a trial.

    The trials that tests share are made before, with their figures.
    """
    sample_nothing(monkeypatch)


@pytest.fixture
def session(inputs: TrialInputs, cache: ContentCache) -> Session:
    return Session(inputs, cache)


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "trial")


@pytest.fixture
def short_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certifications can be cut off in many places."""
    monkeypatch.setattr(collect, "_FIRST_GROUP", 4)
    monkeypatch.setattr(collect, "_GROUP_SECONDS", 0.0)
