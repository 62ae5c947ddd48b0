"""A trial in front of a black box: trained and scored through a surrogate, certified on itself."""

from pathlib import Path

import pytest
import torch

from decrop.cache import ContentCache
from decrop.cli.options import load_trial
from decrop.config import TrialConfig
from decrop.errors import RunError
from decrop.files import read_json
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs, prepare
from decrop.trial.result import TrialResult
from decrop.trial.run import certify_undefended, run_trial
from tests.decrop.black_box.functions import InProcess, serve, through_surrogate
from tests.decrop.digits_trial import (
    CPU,
    ESTIMATION_SAMPLES,
    FIXED,
    SELECTION_SAMPLES,
    SHORT,
    TEST_IMAGES,
    sample_nothing,
    short_trial,
)

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES = 300
BLACK_BOX = through_surrogate(QUERIES, epochs=5, learning_rate=0.01)


def settings(*assignments: str) -> TrialConfig:
    given = [assignment for assignment in SHORT if "classifier.training" not in assignment]
    return load_trial("digits", [*given, *BLACK_BOX, FIXED, *assignments])


@pytest.fixture
def target(inputs: TrialInputs, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    sample_nothing(monkeypatch)
    found = InProcess(inputs.classifier)
    serve(monkeypatch, found)
    return found


def result(folder: TrialFolder) -> TrialResult:
    return TrialResult.from_json(read_json(folder.result_path))


def test_a_check_asks_nothing_and_refuses_what_loading_would(target: InProcess) -> None:
    prepare(settings())
    for wrong in ("classifier.surrogate=null", "classifier.surrogate.queries=30"):
        with pytest.raises(ValueError, match=r"classifier\.surrogate"):
            prepare(settings(wrong))
    assert target.images_asked == 0


@pytest.mark.slow
def test_only_test_certificates_are_the_black_boxes_own(
    target: InProcess, inputs: TrialInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache = settings(), ContentCache(tmp_path / "cache")
    given = load_inputs(config, cache, CPU)
    assert given.target is target and given.protected is target
    assert target.images_asked == QUERIES
    assert given.agreement is not None and 0 < given.agreement <= 1
    assert given.classifier.content_hash() != inputs.classifier.content_hash()

    held_out, final, bare = (TrialFolder(tmp_path / name) for name in ("held", "final", "bare"))
    list(run_trial(config, given, held_out, cache, split="held_out"))
    assert target.images_asked == QUERIES
    # Not one more than the certificates need, and one each without noise.
    most = TEST_IMAGES * (SELECTION_SAMPLES + ESTIMATION_SAMPLES + 1)
    list(run_trial(config, given, final, cache, split="test"))
    asked_for_final = target.images_asked - QUERIES
    certify_undefended(config, given, bare)
    assert asked_for_final >= most

    hashes = {
        "classifier": target.content_hash(),
        "surrogate": given.classifier.content_hash(),
        "limited_data": inputs.limited.all.content_hash(),
    }
    for folder in (held_out, final, bare):
        found = result(folder)
        assert found.hashes.items() >= hashes.items()
        assert found.agreement == given.agreement
    # The certificates without a denoiser are those of the classifier behind the black box, which
    # computes in fp32.
    white_box = TrialFolder(tmp_path / "white")
    certify_undefended(short_trial(FIXED, "execution.precision=fp32"), inputs, white_box)
    assert result(bare).scores == result(white_box).scores
    assert result(bare).clean_accuracy == result(white_box).clean_accuracy
    through_surrogate = TrialFolder(tmp_path / "surrogate")
    alone = TrialInputs(given.classifier, given.limited, given.test, given.class_names)
    certify_undefended(config, alone, through_surrogate)
    assert result(bare).scores != result(through_surrogate).scores

    # Again: all of it is there.
    before = target.images_asked
    again = load_inputs(config, cache, CPU)
    assert again.classifier.content_hash() == given.classifier.content_hash()
    list(run_trial(config, again, final, cache, split="test"))
    certify_undefended(config, again, bare)
    assert target.images_asked == before


@pytest.mark.slow
def test_a_killed_certification_asks_only_about_what_is_missing(
    target: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache = settings(), ContentCache(tmp_path / "cache")
    given = load_inputs(config, cache, CPU)
    undisturbed = TrialFolder(tmp_path / "undisturbed")
    certify_undefended(config, given, undisturbed)
    needed = target.images_asked - QUERIES
    target.asked.clear()
    folder = TrialFolder(tmp_path / "killed")
    target.dies_after = needed // 2
    with pytest.raises(RunError):
        certify_undefended(config, given, folder)
    target.dies_after = None
    certify_undefended(config, given, folder)
    # Those counted before are not asked about again, save a group that was under way.
    assert needed <= target.images_asked < needed + needed // 2
    assert result(folder).scores == result(undisturbed).scores
    # Without noise each image is asked about once, also where the result was not written.
    folder.result_path.unlink()
    target.asked.clear()
    certify_undefended(config, given, folder)
    clean = {image.numpy().tobytes() for image in given.test.images.float() / 255}
    questions = torch.cat(target.asked)
    assert not clean & {image.numpy().tobytes() for image in questions}
