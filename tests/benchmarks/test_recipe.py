"""The recipe's benchmark: equal times, equal steps, and a table that says what was found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from decrop.cli.options import load_trial
from decrop.data.datasets import load_dataset
from decrop.data.limited import limited_data
from decrop.evaluation.accuracy import exact_interval
from decrop.evaluation.table import CertificateTable
from tests.benchmarks.recipe import (
    NONE,
    PAPER,
    RECOMMENDED,
    ROWS,
    held_out_images,
    main,
    rows_of,
    steps_of,
    summary,
    table_of,
    with_equal_time,
    with_training_steps,
)


def table(correct: list[bool], radius: float = 0.3) -> CertificateTable:
    count = len(correct)
    return CertificateTable(
        idx=np.arange(count),
        label=np.zeros(count, dtype=np.int64),
        predict=np.where(correct, 0, 1),
        radius=np.full(count, radius),
        seconds=np.zeros(count),
    )


def test_rows_are_those_asked_for_and_ffdnet_has_none_without_its_weights() -> None:
    names = [row.name for row in rows_of([], None, [50], ROWS)]
    assert names == [RECOMMENDED, PAPER, NONE, "recommended, 50 images"]
    few = rows_of([], None, [50], [])[0]
    assert round(few.config.limited.fraction * 50_000) == 50
    seeds = [few.of_seed(seed) for seed in (0, 3)]
    assert [(config.seed, config.limited.seed) for config in seeds] == [(0, 0), (3, 3)]


def test_held_out_images_are_always_the_same_and_none_of_the_limited_ones() -> None:
    config = load_trial("digits", [])
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited).all
    few, again, all_ = (
        held_out_images(dataset.train, limited, count)
        for count in (200, 200, len(dataset.train.labels) - len(limited))
    )
    assert torch.equal(few.indices, again.indices)
    for found in few, all_:
        assert len(found.indices.unique()) == len(found)
        assert not torch.isin(found.indices, limited.indices).any()


@pytest.mark.parametrize("images", [50, 250, 500])
def test_fewer_images_are_trained_on_in_as_many_steps(images: int) -> None:
    config = load_trial("recommended", [])
    steps = steps_of(config, 500)
    found = steps_of(with_training_steps(config, images, sum(steps[1:])), images)
    assert found == pytest.approx(steps, abs=3) and found[0] == config.prior.steps


def test_equal_time_counts_the_prior_and_keeps_the_shape_of_the_schedule() -> None:
    recommended, paper = load_trial("recommended", []), load_trial("cifar10", [])
    steps, costs = steps_of(recommended, 500), (2.0, 3.0, 4.0)
    assert all(steps)
    seconds = float(np.dot(steps, costs))
    assert steps_of(with_equal_time(recommended, 500, costs, seconds), 500) == steps
    found = with_equal_time(paper, 500, (0.0, 0.0, 20.0), seconds).training
    assert 20 * 3 * (found.epochs + found.discriminator_epochs) == pytest.approx(seconds, rel=0.02)
    assert found.epochs == found.discriminator_epochs
    assert found.epochs / found.learning_rate_drop_every == pytest.approx(3, rel=0.05)


def test_accuracy_is_the_mean_over_seeds_with_each_of_them() -> None:
    half, all_ = [True, False] * 50, [True] * 100
    found = summary({0: table(half), 1: table(all_)}, (0.0, 0.25, 0.5))
    low, high = exact_interval(75, 100)
    assert found["0.25"] == {
        "mean": 0.75,
        "interval": [low, high],
        "by_seed": {0: 0.5, 1: 1.0},
    }
    assert found["0.5"]["mean"] == 0
    row = {"row": "mine", "certified_accuracy": found, "cpu_minutes": 90.4}
    assert "75.0 (65.3-83.1) [50.0 100.0]" in table_of([row])
    assert "90" in table_of([row])


def test_shown_prints_what_is_finished_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table([True] * 5).write(tmp_path / "no_denoiser" / "seed_0" / "certificates.tsv")
    main(tmp_path / "absent", tmp_path / "absent", tmp_path, shown=True, as_json=True)
    assert capsys.readouterr().out.startswith('[{"row": "no denoiser"')
    assert not (tmp_path / "cache").exists()
