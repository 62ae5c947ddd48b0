"""A sweep does not go on with another classifier or other data than it was begun with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from decrop.files import write_json
from decrop.networks.registry import build_classifier_network
from decrop.training.folder import ChangedInputsError
from decrop.trial.prepare import load_inputs
from tests.commands import contents, decrop
from tests.tune.runs import running_on, write_sweep
from tune.cluster import Claim, Claims, ClusterSize, Machines
from tune.directory import SweepDirectory, TrialRecord
from tune.space import reference_config
from tune.sweep_file import load_sweep
from tune.worker import CAUSE, REASON, STOPPED, SweepJob, SweepTrial, run_recorded

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
COSINE = {"training.loss_weights.cosine": {"uniform": [0, 8]}}
# Of these, trials have classifiers of their own.
OWN = {**COSINE, "classifier.channel_order": {"choice": ["rgb", "bgr"]}}


def write_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = build_classifier_network("small_cnn", image_channels=1, class_count=10)
    save_file(network.state_dict(), path)


def begun(folder: Path, space: dict[str, Any]) -> SweepJob:
    """A sweep of which trial 0 was cut off after its first report."""
    weights = folder / "w.safetensors"
    write_weights(weights, 1)
    given = [f"trial.classifier.weights={weights}", "trial.classifier.training=null"]
    sweep = load_sweep(str(write_sweep(folder, space=space)), given)
    directory = SweepDirectory.create(folder / "sweeps", sweep)
    job = SweepJob(directory.path, sweep, ALONE, None)
    running = run_recorded(job, record(job, 0), directory.trial(0), "held_out")
    next(running)
    running.close()  # type: ignore[attr-defined]
    return job


def record(job: SweepJob, number: int) -> TrialRecord:
    return TrialRecord(
        number=number, reference=number == 0, parameters={}, config=reference_config(job.sweep)
    )


def our_classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def our_denoiser() -> nn.Module:
    return nn.Conv2d(1, 1, 3, padding=1)


def test_networks_of_ones_own_are_compared_too(tmp_path: Path) -> None:
    given = [
        f"trial.classifier.source={__name__}:our_classifier",
        "trial.classifier.training=null",
        f"trial.denoiser={{source: {__name__}:our_denoiser}}",
    ]
    sweep = load_sweep(str(write_sweep(tmp_path, space=COSINE)), given)
    directory = SweepDirectory.create(tmp_path / "sweeps", sweep)
    job = SweepJob(directory.path, sweep, ALONE, None)
    config = reference_config(sweep)
    found = load_inputs(config, job.cache, torch.device("cpu")).hashes_of(config, "test")
    new = {"classifier_code", "denoiser_code", "initial_denoiser"}
    assert new < set(found)
    job.check_inputs_kept(config, found)
    directory.trial(0).write_record(record(job, 0))
    for role in found:
        write_json(directory.trial(0).inputs_path, {**found, role: "0" * 64})
        with pytest.raises(ChangedInputsError, match=r"trials/0 was begun with (another|other|a) "):
            job.check_inputs_kept(config, found)


@pytest.mark.slow
def test_a_resumed_sweep_refuses_another_classifier(tmp_path: Path) -> None:
    job = begun(tmp_path, COSINE)
    before = contents(job.directory.trials_path)
    write_weights(tmp_path / "w.safetensors", 2)
    with running_on(ClusterSize((Machines(4.0, 0.0),))):
        ran = decrop("resume", job.path)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.out + ran.err
    assert ran.err.startswith(f"error: {job.directory.trial(0).path} was begun with another classi")
    assert ran.err.endswith("; put back what lay there, or begin anew in another folder.\n")
    assert contents(job.directory.trials_path) == before


def test_trials_that_load_their_own_classifiers_end_the_sweep(tmp_path: Path) -> None:
    job = begun(tmp_path, OWN)
    write_weights(tmp_path / "w.safetensors", 2)
    # Begun and new trials alike.
    for number in (0, 1):
        trial = SweepTrial.__new__(SweepTrial)
        trial._trial_info = None
        parameters = {"classifier.channel_order": "rgb"}
        trial.setup({"number": number, "reference": not number, "parameters": parameters}, job)
        found = trial.step()
        assert found[STOPPED] and found[REASON] == "inputs"
        assert "trials/0 was begun with another classifier (" in found[CAUSE]
        state = job.directory.trial(number).read_state()
        assert state is not None and state.state == "running"


def test_final_trainings_refuse_other_test_images_than_the_undefended_classifier_had(
    tmp_path: Path,
) -> None:
    job = begun(tmp_path, OWN)
    write_json(job.directory.undefended.inputs_path, {"test_images": "0" * 64})
    with pytest.raises(
        ChangedInputsError, match=r"undefended was begun with other test images \(0"
    ):
        next(run_recorded(job, record(job, 0), job.directory.final(0), "test"))
