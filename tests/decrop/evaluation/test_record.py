"""The record beside a table: what it is compared by, and that it belongs to this table alone."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn

from decrop.classifiers.classifier import Classifier
from decrop.config import DenoiserContract
from decrop.denoisers.adapted import AdaptedDenoiser
from decrop.errors import InputError
from decrop.evaluation.record import CertificationRecord, read_record, record_path
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.networks.conditional import told_sigma
from decrop.networks.denoised import DenoisedClassifier
from tests.cases import cases
from tests.decrop.rejecting import rejecting_network, small_classifier
from tests.decrop.tiny import labelled, random_images, tiny_classifier, tiny_config


def record(**changes: Any) -> CertificationRecord:
    return CertificationRecord.model_validate(
        {
            "sigma": 0.25,
            "certification": {},
            "estimation_samples": 100,
            "split": "test",
            "images": 2,
            "seed": 0,
            "device": "cpu",
            "precision": "fp32",
            "chunk_size": 50,
            "chunks_per_batch": 4,
            "hashes": {"certified_images": "a"},
            **changes,
        }
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "certificates.tsv"
    CertificateTable(
        idx=np.array([0, 20]),
        label=np.array([3, 7]),
        predict=np.array([3, -1]),
        radius=np.array([0.25, 0.0]),
        seconds=np.array([1.5, 2.0]),
        record=record(),
    ).write(path)
    return path


def test_it_is_read_back_and_leaves_the_table_as_others_read_it(written: Path) -> None:
    assert CertificateTable.read_tsv(written).record == record()
    # As Cohen et al. read theirs.
    frame = pd.read_csv(written, delimiter="\t")
    assert list(frame.columns[:6]) == ["idx", "label", "predict", "radius", "correct", "time"]
    with written.open() as file:
        assert len(list(csv.reader(file, delimiter="\t"))) == 3


def test_a_table_without_one_is_read(written: Path) -> None:
    record_path(written).unlink()
    assert CertificateTable.read_tsv(written).record is None


def test_that_of_another_table_is_refused(written: Path) -> None:
    written.write_text(written.read_text().replace("0.25", "0.75"))
    with pytest.raises(InputError, match=r"tsv\.json does not belong to certificates\.tsv"):
        CertificateTable.read_tsv(written)


def test_a_new_table_takes_the_old_record_away(written: Path) -> None:
    replace(CertificateTable.read_tsv(written), record=None).write(written)
    assert not record_path(written).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"sigma": -1}, "sigma = -1"), ({"unheard": 1}, "unheard"), ({"images": None}, "images")],
)
def test_what_is_no_record_is_refused_by_name(
    written: Path, changes: dict[str, Any], said: str
) -> None:
    path = record_path(written)
    write_json(path, read_json(path) | changes)
    with pytest.raises(InputError) as error:
        read_record(written)
    assert str(error.value).startswith(f"{path}: ") and said in str(error.value)
    write_json(path, [1])
    with pytest.raises(InputError, match="does not belong"):
        read_record(written)


@cases(
    ("changes", "said"),
    [
        ({}, []),
        # Which noise, and in how large batches, is no other measure.
        ({"seed": 7, "chunk_size": 10, "chunks_per_batch": 9}, []),
        ({"sigma": 0.5}, ["sigma 0.5, not 0.25"]),
        ({"precision": "bf16"}, ["precision bf16, not fp32"]),
        # By the setting that says how many: with 100 selection samples max_samples was 109.
        ({"estimation_samples": 9}, ["max samples 109, not 200"]),
        (
            {"estimation_samples": 150, "certification": {"selection_samples": 50}},
            ["selection samples 50, not 100"],
        ),
        ({"images": 3}, ["images 3, not 2"]),
        ({"hashes": {"certified_images": "b"}}, ["other images"]),
        ({"hashes": {}}, []),
        (
            {"certification": {"failure_probability": 0.1}},
            ["failure probability 0.1, not 0.001"],
        ),
        # Of the fixed procedure, samples and images as they were taken count, and no grid.
        (
            {"certification": {"procedure": "fixed", "radius_step": 0.01, "held_out_samples": 99}},
            ["procedure fixed, not adaptive"],
        ),
        ({"certification": {"radii": [0, 0.1]}}, ["radii [0, 0.1], not [0, 0.25, 0.5, 0.75]"]),
    ],
)
def test_differences_are_those_of_the_measure(changes: dict[str, Any], said: list[str]) -> None:
    assert record(**changes).differences(record()) == said


def test_every_setting_of_certification_is_compared_unless_it_says_how_much_was_taken() -> None:
    taken = {"estimation_samples", "max_samples", "held_out_samples", "pruning_samples"}
    compared = set(record()._compared(record()))
    settings = set(type(record().certification).model_fields)
    assert settings - taken - {"test_images"} <= compared
    assert taken & compared == {"max_samples"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"split": "held_out"}, "held out samples"),
        ({"certification": {"procedure": "fixed"}}, "estimation samples"),
        ({"certification": {"procedure": "anytime"}}, "max samples"),
    ],
)
def test_samples_are_told_by_the_setting_that_says_how_many(
    changes: dict[str, Any], named: str
) -> None:
    more = record(**{**changes, "estimation_samples": 101})
    (told,) = more.differences(record(**changes))
    assert told.startswith(f"{named} ")


def test_another_layout_of_images_is_a_change_where_both_tell_it() -> None:
    one, other, unknown = record(layout="channels_last"), record(layout="contiguous"), record()
    assert one.changes(other) == ["layout channels_last, not contiguous"]
    assert one.differences(other) == one.changes(unknown) == unknown.changes(one) == []
    assert record_of(small_classifier(), layout="contiguous").layout == "contiguous"
    assert "layout" not in unknown.model_dump(mode="json")


def record_of(network: nn.Module, **execution: str) -> CertificationRecord:
    config = tiny_config(execution={"chunks_per_batch": 1, **execution})
    images = labelled(tiny_classifier(), random_images(2))
    return CertificationRecord.of(config, network, images, split="test", estimation_samples=100)


def behind(denoiser: nn.Module, *, mirrored: bool = False, **contract: Any) -> nn.Module:
    adapted = AdaptedDenoiser(denoiser, DenoiserContract(**contract))
    return DenoisedClassifier(adapted, small_classifier(), mirrored=mirrored)


def of_a_function(negative_slope: float) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.LeakyReLU(negative_slope))
    return Classifier(
        network, architecture="package.module:function", mean=(0.0,), std=(1.0,), class_count=36
    )


@cases(
    ("certified", "otherwise", "said"),
    [
        # Programs, and networks of others, compute with more than their weights.
        (behind(nn.AvgPool2d(3, 1, 1)), behind(nn.MaxPool2d(3, 1, 1)), "another denoiser"),
        (behind(nn.Tanh()), behind(nn.Tanh(), returns="noise"), "another denoiser"),
        (behind(nn.Tanh()), behind(nn.Tanh(), mirrored=True), "another denoiser"),
        (of_a_function(0.1), of_a_function(0.2), "another version of the classifier's code"),
        (rejecting_network(), rejecting_network(threshold=0.4), "another rejector"),
    ],
)
def test_a_function_of_the_same_weights_that_computes_something_else_is_another(
    certified: nn.Module, otherwise: nn.Module, said: str
) -> None:
    assert record_of(certified).changes(record_of(otherwise)) == [said]
    # All certificates at several sigmas have one record but for these.
    assert record_of(told_sigma(certified, 0.5)) == record_of(told_sigma(certified, 0.1))
