"""Trials whose denoiser starts from a prior."""

import pytest
import torch

from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.files import read_json
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.prior import PRIOR, Prior, prior_weights
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.run import run_trial
from tests.decrop.digits_trial import (
    CPU,
    outcome,
    short_trial,
)
from tests.decrop.trial_sessions import CutOffError, Session

# The prior

PRIOR_STEPS = 5


def trial_with_prior() -> TrialConfig:
    return short_trial("prior.kind=dead_leaves", f"prior.steps={PRIOR_STEPS}", "prior.batch_size=4")


@pytest.fixture(scope="module")
def pretrained_trial(
    inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrialFolder, ContentCache]:
    """A finished trial with a prior, and its cache."""
    path = tmp_path_factory.mktemp("pretrained")
    folder, cache = TrialFolder(path / "trial"), ContentCache(path / "cache")
    list(run_trial(trial_with_prior(), inputs, folder, cache, split="held_out"))
    return folder, cache


def test_trial_with_a_prior_starts_from_it(
    pretrained_trial: tuple[TrialFolder, ContentCache],
    held_out_trial: TrialFolder,
    session: Session,
    folder: TrialFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished, cache = pretrained_trial
    assert read_json(finished.result_path)["seconds"]["prior"] > 0
    assert "prior" not in read_json(held_out_trial.result_path)["seconds"]
    assert outcome(finished)["denoiser"] != outcome(held_out_trial)["denoiser"]

    config = trial_with_prior()
    prior = Prior(
        config.prior,
        config.denoiser,
        sigma=config.sigma,
        image_shape=(1, 8, 8),
        seed=config.seed,
        precision="fp32",
    )
    expected = prior_weights(prior, cache, CPU)
    assert expected is not None
    begun: list[dict[str, torch.Tensor]] = []

    def stop(trainer: DenoiserTrainer) -> None:
        begun.append(dict(trainer.denoiser.state_dict()))
        raise CutOffError

    monkeypatch.setattr(DenoiserTrainer, "run_epoch", stop)
    session.cache = cache
    with pytest.raises(CutOffError):
        list(session.run(folder, config))
    assert begun[0].keys() == expected.keys()
    assert all(torch.equal(begun[0][name], expected[name]) for name in expected)
    assert cache.computations(PRIOR) == 1


def test_trial_with_a_prior_goes_on_without_pretraining_again(
    pretrained_trial: tuple[TrialFolder, ContentCache], session: Session, folder: TrialFolder
) -> None:
    finished, session.cache = pretrained_trial
    trial = session.run(folder, trial_with_prior())
    next(trial)
    trial.close()  # type: ignore[attr-defined]
    list(session.run(folder, trial_with_prior()))
    assert outcome(folder) == outcome(finished)
    assert session.cache.computations(PRIOR) == 1
