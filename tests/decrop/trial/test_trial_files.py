"""What a trial writes can be read back, and the result appears last."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from decrop.cache import ContentCache
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_text
from decrop.networks.registry import build_denoiser
from decrop.synthesis.synthetic_samples import synthetic_samples
from decrop.training.denoiser import DenoiserTrainer
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import Scores, TrialResult
from tests.decrop.digits_trial import CPU, certificates, files_in, short_trial


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "trial")


@pytest.fixture
def trainer(inputs: TrialInputs, cache: ContentCache) -> DenoiserTrainer:
    return new_trainer(inputs, cache)


def new_trainer(inputs: TrialInputs, cache: ContentCache) -> DenoiserTrainer:
    config = short_trial()
    samples = synthetic_samples(config, inputs.classifier, inputs.limited, cache=cache, device=CPU)
    return DenoiserTrainer(config, inputs.classifier, samples, CPU)


def table(radii: list[float]) -> CertificateTable:
    count = len(radii)
    return CertificateTable(
        idx=np.arange(count),
        label=np.zeros(count, dtype=np.int64),
        predict=np.zeros(count, dtype=np.int64),
        radius=np.array(radii),
        seconds=np.full(count, 0.5),
    )


def result_of(rows: CertificateTable) -> TrialResult:
    return TrialResult(
        split="test",
        scores=Scores.of(rows, (0.0, 0.25)),
        clean_accuracy=1.0,
        flip_rate=0.5,
        precision="fp32",
        device="cpu",
        chunks_per_batch=4,
        hashes={},
        seconds={},
        image_shape=(1, 8, 8),
    )


def test_progress_is_read_back(
    trainer: DenoiserTrainer, inputs: TrialInputs, cache: ContentCache, folder: TrialFolder
) -> None:
    trainer.run_epoch()
    trainer.run_epoch()
    folder.save_progress(trainer)
    other = new_trainer(inputs, cache)
    folder.load_progress(other)
    assert other.epochs_done == 2
    assert other.history == trainer.history
    assert [row["epoch"] for row in read_json(folder.history_path)] == [1, 2]
    for name, tensor in trainer.denoiser.state_dict().items():
        assert torch.equal(other.denoiser.state_dict()[name], tensor), name


def test_without_a_checkpoint_a_trainer_stays_as_it_is(
    trainer: DenoiserTrainer, folder: TrialFolder
) -> None:
    folder.load_progress(trainer)
    assert trainer.epochs_done == 0
    assert trainer.history == []
    assert folder.reports == []
    assert not folder.path.exists()


def test_checkpoint_holds_no_pickled_code(trainer: DenoiserTrainer, folder: TrialFolder) -> None:
    trainer.run_epoch()
    folder.save_progress(trainer)
    state = torch.load(folder.checkpoint_path, weights_only=True)
    assert state["trainer"]["steps_done"] == trainer.steps_an_epoch


def test_denoiser_is_read_back_from_safetensors(folder: TrialFolder) -> None:
    settings = short_trial().denoiser
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = build_denoiser(settings, image_channels=3)
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folder.save_denoiser(denoiser)
    weights = load_file(folder.denoiser_path)
    assert weights.keys() == denoiser.state_dict().keys()
    for name, tensor in denoiser.state_dict().items():
        assert torch.equal(weights[name], tensor), name


# No radius is certified, some, and some beyond the axis at its smallest.
@pytest.mark.parametrize("radii", [[0.0, 0.0], [0.0, 0.2], [0.1, 1.5]])
def test_outcome_is_read_back(folder: TrialFolder, radii: list[float]) -> None:
    rows = table(radii)
    write_text(folder.counts_path, "counts while it was certified")
    folder.write_outcome(result_of(rows), rows, title="this denoiser")
    assert certificates(CertificateTable.read_tsv(folder.certificates_path)) == certificates(rows)
    assert folder.result == result_of(rows)
    with Image.open(folder.figures_path / "certified_accuracy.png") as figure:
        assert figure.format == "PNG"
    assert files_in(folder.path) == {
        "certificates.tsv",
        "result.json",
        "figures/certified_accuracy.png",
    }


def test_result_appears_after_the_files_it_speaks_of(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace = Path.replace
    write_text(folder.counts_path, "counts while it was certified")

    def recording(source: Path, target: Path) -> Any:
        written.append(target.name)
        # Until all is safe a killed trial goes on from the counts.
        assert folder.counts_path.exists()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", recording)
    rows = table([0.1, 0.2])
    folder.write_outcome(result_of(rows), rows, title="this denoiser")
    assert written[-1] == "result.json"
    assert {"certificates.tsv", "certified_accuracy.png"} < set(written)
    assert not folder.counts_path.exists()
