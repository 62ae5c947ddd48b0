"""Results say what the certificates say, and survive being written down."""

import json
from dataclasses import replace

import numpy as np
import pytest

from decrop.evaluation.table import CertificateTable
from decrop.trial.result import Scores, TrialResult, radius_key
from tests.cases import cases


def result(flip_rate: float | None = 0.75) -> TrialResult:
    return TrialResult(
        split="held_out",
        scores=Scores(
            images=8,
            average_certified_radius=1 / 3,
            certified_accuracy={"0.0": 0.625, "0.25": 0.1},
            abstention_rate=0.125,
            area_under_curve=0.3,
            radius_error=0.05,
        ),
        clean_accuracy=0.875,
        flip_rate=flip_rate,
        precision="bf16",
        device="cpu",
        chunks_per_batch=4,
        hashes={"classifier": "c" * 64, "limited_data": "d" * 64, "certified_images": "e" * 64},
        seconds={"stage1": 1.5, "training": 2.25, "certification": 0.125},
        image_shape=(3, 8, 6),
    )


@cases(
    ("radius", "key"), [(0, "0.0"), (0.25, "0.25"), (1, "1.0"), (0.1 + 0.2, "0.30000000000000004")]
)
def test_radius_key_is_the_shortest_decimal_that_reads_back(radius: float, key: str) -> None:
    assert radius_key(radius) == key
    assert float(radius_key(radius)) == radius
    # Of an element of an array it is not NumPy's own form.
    assert radius_key(np.float64(radius)) == key


def test_scores_count_abstentions_and_mistakes_against_the_denoiser() -> None:
    table = CertificateTable(
        idx=np.arange(5),
        label=np.array([0, 1, 2, 3, 4]),
        # Right with radii 0.5, 0.25 and 0.0; wrong with a large radius; an abstention.
        predict=np.array([0, 1, 2, 0, -1]),
        radius=np.array([0.5, 0.25, 0.0, 3.0, 0.0]),
        seconds=np.zeros(5),
    )
    scores = Scores.of(table, (0.0, 0.25, 0.3, 1.0))
    assert scores.radius_error == pytest.approx(np.std([0.5, 0.25, 0, 0, 0], ddof=1) / 5**0.5)
    assert scores.average_radius_interval == pytest.approx((0.0, 0.15 + 1.96 * 0.1))
    assert scores.sums_up(table, (0.0, 0.25, 0.3, 1.0))
    assert not replace(scores, radius_error=0.2).sums_up(table, (0.0, 0.25, 0.3, 1.0))
    assert scores == Scores(
        images=5,
        average_certified_radius=0.15,
        certified_accuracy={"0.0": 0.6, "0.25": 0.4, "0.3": 0.2, "1.0": 0.0},
        abstention_rate=0.2,
        area_under_curve=0.15,
        radius_error=pytest.approx(0.1),
    )


@pytest.mark.parametrize("flip_rate", [0.75, None])
def test_result_survives_json(flip_rate: float | None) -> None:
    written = result(flip_rate)
    document = written.to_json()
    assert TrialResult.from_json(json.loads(json.dumps(document))) == written
    # Reading does not eat the document.
    assert TrialResult.from_json(document) == TrialResult.from_json(document)
