"""`decrop certify` certifies a bundle anew, or a classifier alone, and writes one row an image."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from scipy.stats import norm

import decrop.smoothing.backend
import decrop.training.trained_classifier
from decrop.bundle import load_bundle
from decrop.cli.main import run
from decrop.config import TrialConfig
from decrop.evaluation.table import CertificateTable
from decrop.smoothing import collect
from decrop.smoothing.execution import resolve_precision
from decrop.smoothing.sampling import (
    ESTIMATION,
    CountRequest,
    LocalSampler,
    MakeSampler,
    SamplingTask,
)
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import Scores
from decrop.trial.run import certify_undefended
from tests.cases import cases
from tests.commands import refused, set_options
from tests.decrop.cli.bad_settings import BAD_ARGUMENTS, write_bad_files
from tests.decrop.digits_trial import (
    CPU,
    ESTIMATION_SAMPLES,
    FIXED,
    SELECTION_SAMPLES,
    SHORT,
    TEST_IMAGES,
    certificates,
    short_trial,
)

# mypy takes `decrop.cli.certify` for the function of that name.
certify_module = sys.modules["decrop.cli.certify"]
WRITTEN = {"certificates.tsv", "certificates.tsv.json"}
PROCEDURES = ["certification.procedure=adaptive", FIXED]


def certified(target: str, out: Path, *options: str) -> CertificateTable:
    assert run(["certify", target, "--out", str(out), *options]) == 0
    return CertificateTable.read_tsv(out)


def samples_of(table: CertificateTable) -> int:
    assert table.samples is not None
    return int(table.samples.sum())


def unwrapped(shown: str) -> str:
    return " ".join(shown.split())


def test_certificates_of_a_bundle_are_those_it_records(exported: Path, tmp_path: Path) -> None:
    table = certified(str(exported), tmp_path / "certificates.tsv")
    recorded = load_bundle(exported).certificates
    assert certificates(table) == certificates(recorded)
    # With the same settings, denoiser, classifier and images.
    assert table.record == recorded.record
    assert table.record is not None
    assert set(table.record.hashes) == {"classifier", "denoiser", "certified_images"}
    assert {path.name for path in tmp_path.iterdir()} == WRITTEN


def test_last_line_is_one_json_object(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "certificates.tsv"
    table = certified(str(exported), out, "--json")
    shown = capsys.readouterr()
    assert shown.err == ""
    scores = Scores.of(table, short_trial().certification.radii)
    precision = resolve_precision("auto", CPU)
    assert json.loads(shown.out.splitlines()[-1]) == {
        "certificates": str(out),
        "certified_accuracy": scores.certified_accuracy,
        "shares": asdict(table.shares),
        "samples": samples_of(table),
        "precision": precision,
    }
    misclassified = f"misclassified {table.shares.misclassified:.1%} (a wrong class was selected"
    assert misclassified in shown.out
    title = f"σ = 0.25, at most {SELECTION_SAMPLES + ESTIMATION_SAMPLES} samples"
    assert title in unwrapped(shown.out)
    assert (
        f"\n{samples_of(table) / TEST_IMAGES:,.0f} samples an image, in {precision} on cpu\n"
        in shown.out
    )
    assert {path.name for path in out.parent.iterdir()} == WRITTEN


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_rows_say_how_many_samples_were_drawn_and_why_no_more(
    procedure: str,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    watched: "Watched",
) -> None:
    out = tmp_path / "certificates.tsv"
    table = certified(str(exported), out, *set_options(procedure), "--json")
    header, *rows = out.read_text().splitlines()
    assert header == "idx\tlabel\tpredict\tradius\tcorrect\ttime\tsamples\tending\tselected"
    samples, endings = zip(*(row.split("\t")[6:8] for row in rows), strict=True)
    assert [int(number) for number in samples] == watched.draws_by_image(table.idx.tolist())
    most = SELECTION_SAMPLES + ESTIMATION_SAMPLES
    if procedure == FIXED:
        assert set(samples) == {str(most)}
        assert set(endings) == {"complete"}
    else:
        assert set(samples) > {str(SELECTION_SAMPLES)}
        assert {int(n) for n, e in zip(samples, endings, strict=True) if e == "misclassified"} == {
            SELECTION_SAMPLES
        }
        assert set(endings) <= {"misclassified", "out_of_reach", "most_samples", "largest_radius"}
    shown = capsys.readouterr().out
    assert json.loads(shown.splitlines()[-1])["samples"] == watched.draws == samples_of(table)
    draws = f"N = {ESTIMATION_SAMPLES}" if procedure == FIXED else f"at most {most} samples"
    assert f"σ = 0.25, {draws}" in unwrapped(shown)


def test_settings_of_certification_can_be_changed(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precision = "bf16" if resolve_precision("auto", CPU) == "fp32" else "fp32"
    options = set_options(
        "certification.test_images=50",
        "certification.max_samples=410",
        "certification.radii=[0.1]",
        f"execution.precision={precision}",
    )
    table = certified(str(exported), tmp_path / "certificates.tsv", *options, "--json")
    assert len(table.idx) == 50
    # More than 60 draws can certify.
    assert table.radius.max() > 0.25 * norm.ppf(0.05 ** (1 / ESTIMATION_SAMPLES))
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["certified_accuracy"]) == ["0.1"]
    assert document["precision"] == precision


def test_settings_give_the_classifier_without_a_denoiser(
    inputs: TrialInputs, tmp_path: Path
) -> None:
    reference = TrialFolder(tmp_path / "reference")
    certify_undefended(short_trial(), inputs, reference)
    out = tmp_path / "here" / "certificates.tsv"
    table = certified("digits", out, *set_options(*SHORT))
    assert certificates(table) == certificates(
        CertificateTable.read_tsv(reference.certificates_path)
    )
    assert {path.name for path in out.parent.iterdir()} == WRITTEN


def test_settings_can_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "dataset: {name: digits}\n"
        "limited: {fraction: 0.1}\n"
        "classifier: {source: small_cnn, training: {epochs: 1}}\n"
        "certification: {test_images: 3, max_samples: 45, selection_samples: 5}\n"
    )
    assert run(["certify", "mine.yaml"]) == 0
    table = CertificateTable.read_tsv(Path("mine_sigma_0.25.tsv"))
    assert len(table.idx) == 3
    assert np.isfinite(table.radius).all()
    written = {"mine_sigma_0.25.tsv", "mine_sigma_0.25.tsv.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*written, "mine.yaml"}


# Certified before


def test_the_same_command_shows_what_it_wrote(
    exported: Path, tmp_path: Path, watched: "Watched", capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certificates.tsv"
    certified(str(exported), out, "--json")
    first, written = capsys.readouterr().out.splitlines(), out.read_bytes()
    watched.asked = []
    certified(str(exported), out, "--json")
    told, *second = capsys.readouterr().out.splitlines()
    assert told == f"{out} has these certificates already; --overwrite certifies anew"
    assert second[-1] == first[-1]
    assert [line for line in second if line in first] == second
    assert not watched.asked
    certified(str(exported), out, "--overwrite")
    assert watched.asked
    # The times of images differ.
    assert out.read_bytes() != written


OTHERS = {
    "max_samples": (["certification.max_samples=410"], ", not 410;"),
    "images": (["certification.test_images=5"], "not 5"),
    "seed": (["seed=1"], "it has seed 0, not 1;"),
    "radii": (["certification.radii=[0.1]"], "radii ["),
    "procedure": ([FIXED], "procedure adaptive, not fixed"),
    "batch": (["execution.chunks_per_batch=3"], "chunks per batch "),
}


def test_other_certificates_are_replaced_only_if_told_to(
    exported: Path, tmp_path: Path, watched: "Watched"
) -> None:
    out = tmp_path / "certificates.tsv"
    certified(str(exported), out)
    written = {path: path.read_bytes() for path in tmp_path.iterdir()}
    watched.asked = []
    for name, (assignments, told) in OTHERS.items():
        given = [str(exported), "--out", str(out), *set_options(*assignments)]
        message = refused("certify", *given)
        assert "is of another certification: it has " in message, name
        assert told in message, name
        assert message.endswith("; give another --out, or --overwrite.\n"), name
    assert not watched.asked
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == written
    few = certified(str(exported), out, "--overwrite", *set_options("certification.test_images=5"))
    assert len(few.idx) == 5


def test_another_network_is_another_certification(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "certificates.tsv"
    options = set_options(*SHORT, "certification.test_images=2")
    weights = exported / "classifier" / "weights.safetensors"
    certified("digits", out, *options, "--weights", str(weights))
    other = tmp_path / "other.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(weights).items()}, other)
    given = ["digits", "--out", str(out), *options, "--weights", str(other)]
    assert "it has another classifier;" in refused("certify", *given)


def test_a_table_of_unknown_settings_is_kept(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "certificates.tsv"
    out.write_text("mine")
    message = refused("certify", str(exported), "--out", str(out))
    assert "nothing beside it says how it was computed" in message
    assert out.read_text() == "mine"


def test_radii_that_the_fixed_procedure_does_not_test_are_only_shown(
    exported: Path, tmp_path: Path, watched: "Watched", capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certificates.tsv"
    certified(str(exported), out, *set_options(FIXED))
    watched.asked = []
    capsys.readouterr()
    certified(str(exported), out, *set_options(FIXED, "certification.radii=[0.1]"), "--json")
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["certified_accuracy"]) == ["0.1"]
    assert not watched.asked


def test_a_table_is_called_after_the_bundle_and_its_noise(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, tmp_path / "my.run" / "bundle")
    few = set_options("certification.test_images=2", FIXED)
    assert run(["certify", "my.run/bundle", *few]) == 0
    several = set_options("certification.sigmas=[0.25,0.5]")
    assert run(["certify", "my.run/bundle", *few, *several]) == 0
    assert {path.name for path in tmp_path.glob("*.*") if path.is_file()} == {
        "my.run_bundle_sigma_0.25.tsv",
        "my.run_bundle_sigma_0.25.tsv.json",
        "my.run_bundle_sigma_0.5.tsv",
        "my.run_bundle_sigma_0.5.tsv.json",
        "my.run_bundle_envelope.tsv",
        "my.run_bundle_envelope.tsv.json",
        "my.run_bundle_sigmas.png",
    }


def test_tables_at_several_sigmas_are_shown_again_once_all_are_there(
    exported: Path, tmp_path: Path, watched: "Watched", capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "several.tsv"
    options = set_options("certification.test_images=3", FIXED, "certification.sigmas=[0.25,0.5]")
    certified(str(exported), out, *options, "--json")
    first = capsys.readouterr().out.splitlines()[-1]
    watched.asked = []
    certified(str(exported), out, *options, "--json")
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert not watched.asked
    (tmp_path / "several_envelope.tsv").unlink()
    certified(str(exported), out, *options, "--json")
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert watched.asked


# The classifier of settings


def test_weights_are_taken_in_place_of_training(
    exported: Path, inputs: TrialInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights than the preset would train; the classifier of a bundle is one."""
    weights = tmp_path / "mine.safetensors"
    shutil.copy(exported / "classifier" / "weights.safetensors", weights)
    reference = TrialFolder(tmp_path / "reference")
    certify_undefended(short_trial(), inputs, reference)

    def training(*arguments: object, **named: object) -> None:
        raise AssertionError("the classifier is given")

    monkeypatch.setattr(decrop.training.trained_classifier, "train", training)
    options = [*set_options(*SHORT), "--weights", str(weights)]
    table = certified("digits", tmp_path / "certificates.tsv", *options)
    assert certificates(table) == certificates(
        CertificateTable.read_tsv(reference.certificates_path)
    )


# Killed and run again


class Watched:
    """What all samplers of this process were asked; may be interrupted before a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, CountRequest]] = []
        self.calls = 0
        self.interrupt_at: int | None = None
        answer = LocalSampler.class_counts

        def class_counts(sampler: LocalSampler, requests: Sequence[CountRequest]) -> Any:
            self.calls += 1
            if self.calls == self.interrupt_at:
                raise KeyboardInterrupt
            ids = sampler._task.image_ids.tolist()
            self.asked += [(ids[request.image], request) for request in requests]
            return answer(sampler, requests)

        monkeypatch.setattr(LocalSampler, "class_counts", class_counts)

    @property
    def draws(self) -> int:
        return sum(request.samples for _, request in self.asked)

    def draws_by_image(self, ids: list[int]) -> list[int]:
        drawn = Counter[int]()
        for image, request in self.asked:
            drawn[image] += request.samples
        return [drawn[image] for image in ids]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("procedure", PROCEDURES)
@pytest.mark.parametrize("chunks_per_batch", ["4", "auto"])
def test_an_interrupted_run_goes_on_and_draws_only_the_rest(
    procedure: str,
    chunks_per_batch: str,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    watched: Watched,
) -> None:
    monkeypatch.setattr(collect, "_FIRST_GROUP", 4)
    monkeypatch.setattr(collect, "_GROUP_SECONDS", 0.0)
    probed = iter([3, 5, 3])
    monkeypatch.setattr(
        decrop.smoothing.backend, "probe_chunks_per_batch", lambda task, device: next(probed)
    )
    options = set_options(procedure, f"execution.chunks_per_batch={chunks_per_batch}")
    out = tmp_path / "certificates.tsv"
    watched.interrupt_at = 5
    assert run(["certify", str(exported), "--out", str(out), *options]) == 130
    assert "Traceback" not in capsys.readouterr().err
    auto = chunks_per_batch == "auto"
    kept = {"certificates.tsv.counts", *(["certificates.tsv.execution"] if auto else [])}
    assert {path.name for path in tmp_path.iterdir()} == kept
    before, watched.asked = watched.asked, []
    assert before
    kept_samples = sum(request.samples for _, request in before)
    table = certified(str(exported), out, *options)
    told = f"certificates.tsv.counts has {kept_samples:,} samples: going on from there"
    assert told in unwrapped(capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == WRITTEN
    after, watched.asked = watched.asked, []
    assert after
    assert not set(before) & set(after)
    # Another file knows nothing of the first; with batches of the same size it is the same.
    if auto:
        assert next(probed) == 5
    uninterrupted = certified(str(exported), tmp_path / "other.tsv", *options)
    assert certificates(table) == certificates(uninterrupted)
    assert Counter([*before, *after]) == Counter(watched.asked)


def test_images_that_are_finished_draw_nothing_again(
    exported: Path, tmp_path: Path, watched: Watched
) -> None:
    """Interrupted where most images have ended, and only some of the rest have drawn on."""
    out, last = tmp_path / "certificates.tsv", ESTIMATION_SAMPLES // 20 - 1
    whole = certified(str(exported), tmp_path / "whole.tsv")
    rounds = watched.calls
    watched.calls, watched.asked = 0, []
    watched.interrupt_at = rounds
    assert run(["certify", str(exported), "--out", str(out)]) == 130
    watched.asked = []
    table = certified(str(exported), out)
    assert certificates(table) == certificates(whole)
    assert {(request.stream, request.chunk) for _, request in watched.asked} == {(ESTIMATION, last)}
    assert table.samples is not None
    to_the_end = table.idx[table.samples == SELECTION_SAMPLES + ESTIMATION_SAMPLES].tolist()
    assert 0 < len(to_the_end) < TEST_IMAGES
    assert sorted(image for image, _ in watched.asked) == to_the_end


def test_an_anytime_certification_goes_on_with_more_samples(
    exported: Path, tmp_path: Path, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "certificates.tsv"
    images = 6
    anytime = [
        "certification.procedure=anytime",
        "execution.chunks_per_batch=4",
        f"certification.test_images={images}",
    ]
    few = certified(str(exported), out, *set_options(*anytime, "certification.max_samples=130"))
    assert (few.samples == 130).all()  # type: ignore[union-attr]
    drawn, watched.asked = set(watched.asked), []
    capsys.readouterr()
    more = certified(str(exported), out, *set_options(*anytime, "certification.max_samples=370"))
    assert f"has {130 * images:,} samples: going on" in unwrapped(capsys.readouterr().out)
    assert not drawn & set(watched.asked)
    assert (more.samples == 370).all()  # type: ignore[union-attr]
    assert (more.radius >= few.radius).all()
    assert more.radius.sum() > few.radius.sum()
    at_once = certified(
        str(exported),
        tmp_path / "once.tsv",
        *set_options(*anytime, "certification.max_samples=370"),
    )
    assert (more.radius == at_once.radius).all()
    fewer = set_options(*anytime, "certification.max_samples=130")
    capsys.readouterr()
    message = refused("certify", str(exported), "--out", str(out), *fewer)
    assert "it has max samples 370, not 130;" in message


# On a cluster


def test_helpers_alone_need_ray(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(certify_module, "entry_points", lambda **selection: EntryPoints())
    auto = set_options("execution.chunks_per_batch=auto")
    assert refused("certify", str(exported), *auto, "--helpers", "1") == (
        "error: --helpers needs Ray; install it with pip install 'decrop[sweep]'.\n"
    )
    assert not list(tmp_path.iterdir())
    few = set_options("certification.test_images=2")
    assert len(certified(str(exported), tmp_path / "certificates.tsv", *few).idx) == 2


def test_a_cluster_is_asked_for_its_samplers_and_let_go(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []

    @contextmanager
    def cluster(config: TrialConfig, helpers: int, address: str | None) -> Iterator[MakeSampler]:
        events.append((config.sigma, helpers, address))

        def make_sampler(task: SamplingTask) -> LocalSampler:
            events.append(len(task.images))
            return LocalSampler(task, CPU)

        yield make_sampler
        events.append("let go")

    class Ray:
        def load(self) -> Any:
            return cluster

    monkeypatch.setattr(certify_module, "entry_points", lambda **selection: [Ray()])
    out = tmp_path / "certificates.tsv"
    table = certified(str(exported), out, "--helpers", "2", "--address", "10.0.0.1:6379")
    assert events == [(0.25, 2, "10.0.0.1:6379"), TEST_IMAGES, "let go"]
    assert certificates(table) == certificates(load_bundle(exported).certificates)


# What is refused


@pytest.mark.slow
@cases("mistake", BAD_ARGUMENTS)
def test_bad_input_is_one_line_and_nothing_is_created(
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given, named = BAD_ARGUMENTS[mistake]
    message = refused("certify", *given)
    assert all(part in message for part in named), message
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_input_to_a_bundle_is_one_line_and_nothing_is_created(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused("certify", str(exported), "--set", "certification.test_image=7")
    assert "nearest: certification.test_images" in message
    assert "--set" in message
    assert "dataset.path" in refused("certify", str(exported), "--dataset-path", "nowhere")
    assert "--address auto needs --helpers" in refused(
        "certify", str(exported), "--address", "auto"
    )
    (tmp_path / "empty").mkdir()
    assert "config.json does not exist" in refused("certify", "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    "assignment", ["denoiser.depth=5", "sigma=0.5", "dataset.name=cifar10", "classifier.weights=w"]
)
def test_what_a_bundle_fixes_is_not_changed(
    exported: Path,
    assignment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name = assignment.partition("=")[0]
    assert refused("certify", str(exported), *set_options(assignment)) == (
        f"error: --set {name}: the bundle fixes it; what can be changed is in certification, "
        "execution, seed, and dataset.path.\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_denoiser_that_is_trained_already_is_certified_as_it_is(
    exported: Path, tmp_path: Path
) -> None:
    weights = exported / "classifier" / "weights.safetensors"
    plain = [*set_options(*SHORT, FIXED), "--weights", str(weights)]
    options = [*plain, *set_options("denoiser.source=tests.decrop.denoisers.factories:Smoothing")]
    found = certified("digits", tmp_path / "behind.tsv", *options)
    alone = certified("digits", tmp_path / "alone.tsv", *plain)
    assert found.record is not None and alone.record is not None
    assert (found.radius != alone.radius).any()
    # The denoiser's one weight is a part of what was certified.
    other = [*options, *set_options("denoiser.arguments={share: 0.0}")]
    nothing = certified("digits", tmp_path / "nothing.tsv", *other)
    assert (nothing.predict == alone.predict).all() and (nothing.radius == alone.radius).all()
