"""A bundle repeats its certificates anywhere, and notices whatever was changed in it."""

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import decrop.bundle.export
import decrop.bundle.verify
import decrop.smoothing.backend
from decrop.bundle import (
    Bundle,
    limited_data_of,
    load_bundle,
    read_certificates,
    verify_bundle,
)
from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.networks.registry import build_classifier_network
from decrop.smoothing.sampling import LocalSampler, SamplingTask
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.result import TrialResult
from decrop.trial.run import run_trial
from tests.decrop.bundle.changed_bundle import refusal, renew_checksums
from tests.decrop.colour_images import write_colour_images
from tests.decrop.digits_trial import (
    CPU,
    EPOCHS,
    ESTIMATION_SAMPLES,
    FIXED,
    HELD_OUT_SAMPLES,
    SELECTION_SAMPLES,
    TEST_IMAGES,
    certificates,
    export,
    files_in,
    short_trial,
)
from tests.refusals import one_line

FILES = {
    "README.md",
    "certificates.tsv",
    "certificates.tsv.json",
    "checksums.json",
    "classifier/classifier.json",
    "classifier/weights.safetensors",
    "config.json",
    "denoiser.safetensors",
    "figures/certified_accuracy.png",
    "figures/features.png",
    "figures/p_a_distribution.png",
    "figures/training.png",
    "history.json",
}


@pytest.fixture
def bundle_path(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


# Export, load, verify


def test_bundle_holds_these_files_and_no_others(exported: Path) -> None:
    assert files_in(exported) == FILES
    checksums = read_json(exported / "checksums.json")
    assert checksums.keys() == FILES - {"checksums.json"}
    # Nothing is left of the making of it.
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


def test_loaded_bundle_is_the_trial(
    exported: Path, final_trial: TrialFolder, inputs: TrialInputs
) -> None:
    bundle = load_bundle(exported)
    table = CertificateTable.read_tsv(final_trial.certificates_path)
    assert certificates(bundle.certificates) == certificates(table)
    assert bundle.result == TrialResult.from_json(read_json(final_trial.result_path))
    assert bundle.class_names == inputs.class_names
    assert bundle.classifier.content_hash() == inputs.classifier.content_hash()
    weights = load_file(final_trial.denoiser_path)
    for name, tensor in bundle.denoiser.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert not bundle.denoiser.training
    assert list(bundle.history) == read_json(final_trial.history_path)
    assert [row["epoch"] for row in bundle.history] == list(range(1, EPOCHS + 1))
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(bundle.network(images), inputs.classifier(bundle.denoiser(images)))


def test_settings_are_the_trials_with_what_it_ran_on(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.config.execution.device == "cpu"
    assert bundle.config.execution.precision == bundle.result.precision != "auto"
    assert bundle.config.execution.layout == bundle.result.layout == "channels_last"
    update = {"precision": "auto", "layout": "auto"}
    auto = {"execution": bundle.config.execution.model_copy(update=update)}
    assert bundle.config.model_copy(update=auto) == short_trial()


def test_held_out_certificates_are_verified_on_held_out_images(
    held_out_trial: TrialFolder, inputs: TrialInputs, tmp_path: Path
) -> None:
    bundle = load_bundle(export(held_out_trial, inputs, tmp_path / "bundle"))
    assert bundle.result.split == "held_out"
    assert bundle.estimation_samples == HELD_OUT_SAMPLES
    assert verify_bundle(bundle) == 10
    card = " ".join((tmp_path / "bundle" / "README.md").read_text().split())
    assert "10 held-out images" in card
    assert f"{HELD_OUT_SAMPLES} estimation samples" in card


@pytest.mark.parametrize("column", ["predict", "radius", "selected"])
def test_verify_counts_the_certificates_that_differ(exported: Path, column: str) -> None:
    bundle = load_bundle(exported)
    values = getattr(bundle.certificates, column).copy()
    values[[2, 5]] += 1
    changed = dataclasses.replace(bundle.certificates, **{column: values})
    assert verify_bundle(dataclasses.replace(bundle, certificates=changed)) == TEST_IMAGES - 2


def test_verify_notices_another_denoiser(exported: Path) -> None:
    bundle = load_bundle(exported)
    with torch.no_grad():
        last = list(bundle.denoiser.parameters())[-1]
        last.add_(0.2)
    assert verify_bundle(bundle) < TEST_IMAGES


# Procedures


@pytest.fixture(scope="module")
def t_certify_exported(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The training of `fixed_trial`, certified by another rule, in batches found by a probe."""
    folder = tmp_path_factory.mktemp("t_certify")
    config = short_trial(
        FIXED, "certification.certificate=t_certify_grid", "execution.chunks_per_batch=auto"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decrop.smoothing.backend, "probe_chunks_per_batch", lambda task, device: 3)
        list(run_trial(config, inputs, TrialFolder(folder / "trial"), cache, split="test"))
    return export(TrialFolder(folder / "trial"), inputs, folder / "bundle")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("exported", "exact sequential tests of a grid of radii"),
        ("fixed_exported", "Certified by cohen from equally many noise draws"),
        ("t_certify_exported", "Certified by t_certify_grid from equally many noise draws"),
    ],
)
def test_each_procedure_is_carried_and_verified(
    name: str, sentence: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    bundle = load_bundle(path)
    assert bundle.estimation_samples == ESTIMATION_SAMPLES
    assert verify_bundle(bundle) == TEST_IMAGES
    table = bundle.certificates
    assert table.samples is not None
    assert table.ending is not None
    fixed = name != "exported"
    most = SELECTION_SAMPLES + ESTIMATION_SAMPLES
    assert (table.samples.min() == most) == fixed
    assert table.samples.max() == most
    assert (set(table.ending.tolist()) == {"complete"}) == fixed
    card = " ".join((path / "README.md").read_text().split())
    assert sentence in card
    most_said = f"{ESTIMATION_SAMPLES} estimation samples an image"
    assert (f"at most {most_said}" in card) != fixed
    assert most_said in card


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("exported", {"procedure": "fixed"}),
        ("fixed_exported", {"procedure": "adaptive"}),
        ("fixed_exported", {"certificate": "t_certify_grid"}),
        ("t_certify_exported", {"certificate": "cohen"}),
        ("fixed_exported", {"failure_probability": 0.06}),
    ],
)
def test_verify_certifies_by_the_recorded_settings(
    name: str, changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    bundle = load_bundle(request.getfixturevalue(name))
    certification = bundle.config.certification.model_copy(update=changes)
    config = bundle.config.model_copy(update={"certification": certification})
    assert verify_bundle(dataclasses.replace(bundle, config=config)) < TEST_IMAGES


def test_verify_takes_the_batch_size_that_was_found(
    t_certify_exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    class Watched(LocalSampler):
        def __init__(self, task: SamplingTask, device: torch.device) -> None:
            batches.append(task.chunks_per_batch)
            super().__init__(task, device)

    def probing(*arguments: object) -> int:
        raise AssertionError("verification repeats, it does not search")

    monkeypatch.setattr(decrop.smoothing.backend, "LocalSampler", Watched)
    monkeypatch.setattr(decrop.smoothing.backend, "probe_chunks_per_batch", probing)
    bundle = load_bundle(t_certify_exported)
    assert bundle.result.chunks_per_batch == 3
    assert bundle.config.execution.chunks_per_batch == 3
    assert read_json(t_certify_exported / "config.json")["result"]["chunks_per_batch"] == 3
    assert verify_bundle(bundle) == TEST_IMAGES
    assert batches == [3]


def test_the_limited_data_are_drawn_again(exported: Path, inputs: TrialInputs) -> None:
    images = limited_data_of(load_bundle(exported)).all
    assert images.indices.tolist() == inputs.limited.all.indices.tolist()
    assert images.content_hash() == inputs.limited.all.content_hash()


# The classifier


def other_weights(folder: Path, classifier: Classifier) -> Path:
    weights = {k: v.clone() for k, v in classifier.network.state_dict().items()}
    weights["fc.bias"] += 0.5
    path = folder / "other.safetensors"
    save_file(weights, path)
    return path


def test_bundle_without_its_classifier_needs_its_weights(
    final_trial: TrialFolder, inputs: TrialInputs, exported: Path, tmp_path: Path
) -> None:
    path = export(final_trial, inputs, tmp_path / "bundle", with_classifier=False)
    assert files_in(path) == FILES - {"classifier/weights.safetensors"}
    assert "not included" in (path / "README.md").read_text()
    assert "--weights FILE, or with classifier= in Python" in refusal(path)
    other = other_weights(tmp_path, inputs.classifier)
    assert refusal(path, classifier=other).startswith(f"{other} is not the classifier")
    bundle = load_bundle(path, classifier=exported / "classifier" / "weights.safetensors")
    assert verify_bundle(bundle) == TEST_IMAGES


def test_certificates_are_read_without_the_classifiers_weights(
    final_trial: TrialFolder, inputs: TrialInputs, exported: Path, tmp_path: Path
) -> None:
    path = export(final_trial, inputs, tmp_path / "bundle", with_classifier=False)
    config, result, table = read_certificates(path)
    whole = load_bundle(exported)
    assert (config, result) == (whole.config, whole.result)
    assert certificates(table) == certificates(whole.certificates)
    file = path / "certificates.tsv"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(InputError, match=r"certificates\.tsv does not match its checksum"):
        read_certificates(path)


def test_another_classifier_in_the_bundle_is_refused(
    bundle_path: Path, inputs: TrialInputs, tmp_path: Path
) -> None:
    name = "classifier/weights.safetensors"
    shutil.copy(other_weights(tmp_path, inputs.classifier), bundle_path / name)
    renew_checksums(bundle_path)
    assert refusal(bundle_path).startswith(f"{bundle_path / name} is not the classifier")


# The data, which a bundle does not carry


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_images(tmp_path_factory.mktemp("data") / "here")


@pytest.fixture(scope="module")
def colour_bundle(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a classifier from a file, on data from a folder."""
    folder = tmp_path_factory.mktemp("colour")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_classifier_network("small_cnn", image_channels=3, class_count=10)
    save_file(network.state_dict(), folder / "mine.safetensors")
    config = short_trial(
        "dataset.name=cifar10",
        f"dataset.path={colours}",
        "limited.fraction=0.2",
        "classifier.source=auto",
        "classifier.training=null",
        f"classifier.weights={folder / 'mine.safetensors'}",
    )
    cache = ContentCache(folder / "cache")
    inputs = load_inputs(config, cache, CPU)
    trial = TrialFolder(folder / "trial")
    list(run_trial(config, inputs, trial, cache, split="test"))
    return export(trial, inputs, folder / "bundle")


def test_no_path_of_this_machine_is_written_down(colour_bundle: Path, colours: Path) -> None:
    for name in files_in(colour_bundle):
        content = (colour_bundle / name).read_bytes()
        for folder in (colours.parent, colour_bundle.parent, Path.home(), Path.cwd()):
            assert str(folder).encode() not in content, name
    settings = read_json(colour_bundle / "config.json")["trial"]
    assert settings["dataset"] == {"name": "cifar10", "path": None}
    assert settings["classifier"]["weights"] is None


def test_the_path_of_initial_weights_is_not_written_down(
    final_trial: TrialFolder, inputs: TrialInputs, tmp_path: Path
) -> None:
    trial = TrialFolder(tmp_path / "trial")
    shutil.copytree(final_trial.path, trial.path)
    settings = read_json(trial.config_path)
    settings["classifier"]["training"]["initial_weights"] = "/home/me/start.safetensors"
    write_json(trial.config_path, settings)
    bundle = export(trial, inputs, tmp_path / "bundle")
    for name in files_in(bundle):
        assert b"/home/me" not in (bundle / name).read_bytes(), name
    training = read_json(bundle / "config.json")["trial"]["classifier"]["training"]
    assert training["initial_weights"] is None
    assert training["epochs"] == settings["classifier"]["training"]["epochs"]


def test_the_architecture_that_the_weights_fit_is_written_down(colour_bundle: Path) -> None:
    assert load_bundle(colour_bundle).config.classifier.source == "small_cnn"
    card = (colour_bundle / "README.md").read_text()
    assert "pretrained small_cnn classifier" in card
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["cifar10"]


def test_the_same_data_elsewhere_are_accepted(
    colour_bundle: Path, colours: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(colours, tmp_path / "elsewhere")
    bundle = load_bundle(colour_bundle)
    assert verify_bundle(bundle, dataset_path=str(elsewhere)) == TEST_IMAGES


def data_refusal(bundle: Bundle, folder: Path) -> str:
    said = one_line(verify_bundle, bundle, dataset_path=str(folder))
    assert said.startswith("dataset.path: ")
    return said


def test_other_data_are_refused(colour_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(colour_bundle)
    other = write_colour_images(tmp_path / "other", seed=1)
    assert f"the images of {other} are not those that were certified" in data_refusal(bundle, other)
    fewer = write_colour_images(tmp_path / "fewer", test_images=20)
    assert "the data have 20 images, but image 28 was certified" in data_refusal(bundle, fewer)
    with pytest.raises(InputError, match=f"the images of {other} are not those that the denoiser"):
        limited_data_of(bundle, dataset_path=str(other))


# Where it is written


def test_a_trial_that_has_not_finished_is_refused(
    inputs: TrialInputs, cache: ContentCache, tmp_path: Path
) -> None:
    folder = TrialFolder(tmp_path / "trial")
    trial = run_trial(short_trial(), inputs, folder, cache, split="held_out")
    assert not next(trial).finished
    trial.close()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="holds no finished trial"):
        export(folder, inputs, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["trial"]
    assert 0 < len(read_json(folder.history_path)) < EPOCHS


def test_another_classifier_than_the_protected_one_is_not_exported(
    final_trial: TrialFolder, inputs: TrialInputs, tmp_path: Path
) -> None:
    classifier = copy.deepcopy(inputs.classifier)
    with torch.no_grad():
        next(classifier.network.parameters()).mul_(1.5)
    with pytest.raises(InputError, match="protected another classifier"):
        export(final_trial, dataclasses.replace(inputs, classifier=classifier), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(
    final_trial: TrialFolder, inputs: TrialInputs, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already; choose a folder that does not"):
        export(final_trial, inputs, tmp_path / "bundle")
    assert files_in(tmp_path) == {"bundle/mine.txt"}


def test_an_interrupted_export_leaves_no_half_bundle(
    final_trial: TrialFolder,
    inputs: TrialInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*arguments: object, **named: object) -> str:
        raise KeyboardInterrupt

    destination = tmp_path / "new" / "bundle"
    for function in ("store_classifier", "model_card", "write_json", "write_checksums"):
        with monkeypatch.context() as patched:
            patched.setattr(decrop.bundle.export, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                export(final_trial, inputs, destination)
        assert not destination.exists()
    export(final_trial, inputs, destination)
    assert files_in(destination.parent) == {f"bundle/{name}" for name in FILES}
    assert verify_bundle(load_bundle(destination)) == TEST_IMAGES
