import json
from datetime import timedelta
from pathlib import Path

import pytest

from decrop.config import ClassifierSettings, TrialConfig
from decrop.evaluation.table import CertificateTable
from decrop.files import write_json, write_text
from tests.tune.sweeps import (
    CERTIFICATES,
    ENDED,
    STARTED,
    begin,
    end,
    history_row,
    make_sweep,
    write_board,
    write_complete_trial,
    write_outcome,
)
from tune.directory import CodeRecord, SweepDirectory
from tune.mlflow.measurements import certified_curve, result_measurements
from tune.mlflow.page import sweep_description
from tune.mlflow.run_view import Measurement, RunView, Source
from tune.mlflow.sweep_view import BestSoFar, sources
from tune.mlflow.trial_view import flatten_settings


def source_of(directory: SweepDirectory, key: str) -> Source:
    found = {source.key: source for source in sources(directory, directory.read_record())}
    return found[key]


def best_so_far(directory: SweepDirectory) -> list[Measurement]:
    return BestSoFar(directory, directory.read_record()).measurements()


def view_of(directory: SweepDirectory, key: str) -> RunView:
    view = source_of(directory, key).view()
    assert view is not None
    return view


def points(view: RunView, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in view.measurements if m.metric == metric]


def test_config_leaves_have_dotted_paths_and_json_values() -> None:
    config = TrialConfig(classifier=ClassifierSettings(mean=(0.5,), std=(0.25,)))
    leaves = flatten_settings(config)
    assert leaves["training.loss_weights.cosine"] == "4.0"
    assert leaves["dataset.name"] == "cifar10"
    assert leaves["dataset.path"] == "null"
    assert leaves["certification.radii"] == "[0.0, 0.25, 0.5, 0.75]"
    assert leaves["classifier.mean"] == "[0.5]"
    assert leaves["classifier.training"] == "null"
    assert "classifier.training.epochs" not in leaves


def test_curve_is_share_of_all_images_that_are_right_beyond_each_radius(tmp_path: Path) -> None:
    path = tmp_path / "certificates.tsv"
    path.write_text(CERTIFICATES)
    curve = certified_curve(CertificateTable.read_tsv(path))
    assert [step for step, _ in curve] == list(range(0, 1251, 50))
    accuracies = dict(curve)
    # The wrong image with radius 0.9 and the two abstentions never count.
    assert accuracies[0] == pytest.approx(0.7)
    assert accuracies[250] == pytest.approx(0.5)
    assert accuracies[300] == pytest.approx(0.4)
    assert accuracies[850] == pytest.approx(0.1)
    assert accuracies[1200] == pytest.approx(0.1)
    # One image is certified with just 1.2; the curve does not end in mid-air.
    assert accuracies[1250] == 0


def test_curve_reaches_one_even_where_radii_are_small(tmp_path: Path) -> None:
    path = tmp_path / "certificates.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.07\t1\t0.1\n")
    assert certified_curve(CertificateTable.read_tsv(path)) == [(0, 1.0), (50, 1.0)] + [
        (step, 0.0) for step in range(100, 1001, 50)
    ]


def test_curve_of_no_certificates_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "certificates.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    assert certified_curve(CertificateTable.read_tsv(path)) == []


def test_a_trial_is_not_shown_before_it_starts(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    directory.trial(0).path.mkdir(parents=True)
    assert source_of(directory, "trials/0").view() is None
    begin(directory.trial(0), 0)
    directory.trial(0).state_path.unlink()
    assert source_of(directory, "trials/0").view() is None


def test_a_running_trial_shows_what_it_has(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    folder = directory.trial(0)
    begin(folder, 0)
    write_json(folder.history_path, [history_row(1), history_row(2, phase=2)])
    view = view_of(directory, "trials/0")

    assert (view.name, view.status, view.started, view.ended) == (
        "trial 0",
        "RUNNING",
        STARTED,
        None,
    )
    assert view.tags["reference"] == "true"
    assert points(view, "train/total") == [(1, 3.0), (2, 1.5)]
    assert points(view, "train/discriminator") == [(2, 0.7)]
    assert not points(view, "train/phase")
    assert not points(view, "train/epoch")
    assert list(view.artifacts) == ["trial.json"]
    times = {m.step: m.time for m in view.measurements if m.metric == "train/total"}
    assert times == {1: STARTED + timedelta(seconds=2), 2: STARTED + timedelta(seconds=4)}


def test_a_complete_trial_shows_scores_curve_and_artifacts(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    write_complete_trial(directory.trial(3), 3)
    view = view_of(directory, "trials/3")

    assert (view.status, view.ended) == ("FINISHED", ENDED)
    assert points(view, "held_out/average_certified_radius") == [(1, 0.1), (2, 0.2)]
    assert points(view, "held_out/certified_accuracy_at_0.25") == [(1, 0.05), (2, 0.1)]
    assert points(view, "held_out/clean_accuracy") == [(0, 0.9)]
    assert points(view, "seconds/certification") == [(0, 3.25)]
    assert len(points(view, "certified/held_out")) == 26
    assert view.tags["hash.classifier"] == "c" * 64
    assert (view.tags["reference"], view.tags["pruned"]) == ("false", "false")
    assert (view.tags["state"], view.tags["split"]) == ("complete", "held_out")
    assert set(view.artifacts) == {
        "trial.json",
        "certificates.tsv",
        "denoiser.safetensors",
        "figures/certified_accuracy.png",
    }
    assert view.tables["certificates.json"].columns[:3] == ["idx", "label", "predict"]
    assert view.tables["certificates.json"].rows[0][:4] == [0, 3, 3, 0.1]
    radii = points(view, "certified/L2 radius")
    assert [step for step, _ in radii] == [step for step, _ in points(view, "certified/held_out")]
    assert all(radius == step / 1000 for step, radius in radii)
    assert [(put.name, put.digest) for put in view.inputs] == [
        ("classifier: auto", "c" * 64),
    ]


def test_a_result_at_several_sigmas_has_scores_of_each_and_of_the_envelope(tmp_path: Path) -> None:
    scores = {"average_certified_radius": 0.3, "certified_accuracy": {"0.25": 0.5}}
    result = {"split": "test", **scores, "by_sigma": {"0.12": scores}, "envelope": scores}
    found = result_measurements(None, result, ENDED)
    names = {measurement.metric for measurement in found}
    for group in ("test", "test_sigma_0.12", "test_envelope"):
        assert f"{group}/average_certified_radius" in names
        assert f"{group}/certified_accuracy_at_0.25" in names


def test_a_final_run_is_scored_on_test_only(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    write_complete_trial(directory.final(3), 3, split="test", radius=0.4)
    view = view_of(directory, "final/3")
    assert (view.name, view.tags["kind"]) == ("final 3 (test)", "final")
    assert points(view, "test/average_certified_radius") == [(0, 0.4)]
    assert points(view, "test/certified_accuracy_at_0.25") == [(0, 0.5)]
    assert points(view, "certified/test")
    assert not any(m.metric.endswith("held_out") for m in view.measurements)
    assert not any(m.metric.startswith("held_out/") for m in view.measurements)


def test_runs_say_what_they_are_their_rank_and_what_they_certify(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for number, radius in ((0, 0.2), (1, 0.4), (2, 0.3)):
        write_complete_trial(directory.trial(number), number, radius=radius)
    begin(directory.trial(3), 3)
    end(directory.trial(3), "pruned")
    write_complete_trial(directory.final(2), 2, split="test", radius=0.4)
    directory.undefended.path.mkdir()
    write_outcome(directory.undefended, split="test", radius=0.05)
    notes = {
        key: view_of(directory, key).tags["mlflow.note.content"]
        for key in ("trials/0", "final/2", "undefended")
    }
    assert notes["trials/0"].startswith(
        "Trial 0 (the reference), scored on held-out images: complete. Certified accuracy on "
    )
    assert notes["final/2"].startswith(
        "The settings of trial 2, trained again on all limited data and certified on test images: "
        "complete; rank 2 of 3 complete trials by held-out score. Certified accuracy on "
    )
    stamps = source_of(directory, "trials/0").stamps()
    write_board(directory)
    note = view_of(directory, "trials/0").tags["mlflow.note.content"]
    assert ": complete; rank 3 of 3 complete trials by held-out score. Certified" in note
    assert source_of(directory, "trials/0").stamps() != stamps
    assert "rank" not in view_of(directory, "trials/3").tags["mlflow.note.content"]
    assert notes["final/2"].endswith("; average certified radius 0.400.")
    assert notes["undefended"].startswith("The classifier without a denoiser")


def test_the_sweeps_run_says_what_was_searched_and_what_won(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    view = view_of(directory, "sweep")
    assert view.parameters["search"] == "tpe"
    assert view.parameters["sigma"] == "0.25"
    assert view.parameters["data"] == "cifar10"
    assert view.tags["mlflow.source.name"] == "decrop sweep"
    assert "not finished yet" in view.tags["mlflow.note.content"]
    assert "best" not in view.tags
    write_board(directory)
    view = view_of(directory, "sweep")
    assert view.tags["best"] == "trial 1"
    assert "best.certified_accuracy_at_0.25" in view.tags
    assert "| " in view.tags["mlflow.note.content"]


def test_other_seeds_of_a_final_are_runs_of_their_own(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    write_complete_trial(directory.final(3), 3, split="test", radius=0.4)
    write_complete_trial(directory.retraining(3, 2), 3, split="test", radius=0.6)
    view = view_of(directory, "final/3/seeds/2")
    assert (view.name, view.tags["kind"]) == ("final 3, seed 2 (test)", "seed")
    assert points(view, "test/average_certified_radius") == [(0, 0.6)]
    assert not any(m.metric.startswith("held_out/") for m in view.measurements)
    assert points(view_of(directory, "final/3"), "test/average_certified_radius") == [(0, 0.4)]


def test_pruned_and_failed_trials_say_so(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for number in (1, 2):
        begin(directory.trial(number), number)
    end(directory.trial(1), "pruned")
    end(directory.trial(2), "failed", error="x" * 9000 + "ValueError: loss is nan")
    pruned, failed = view_of(directory, "trials/1"), view_of(directory, "trials/2")
    assert (pruned.status, pruned.tags["pruned"]) == ("FINISHED", "true")
    assert (failed.status, failed.tags["state"]) == ("FAILED", "failed")
    assert pruned.tags["mlflow.note.content"].startswith(
        "Trial 1, scored on held-out images: pruned, for others had better scores by then."
    )
    assert failed.tags["mlflow.note.content"].startswith(
        "Trial 2, scored on held-out images: failed.\n\n```"
    )
    assert failed.tags["mlflow.note.content"].endswith("ValueError: loss is nan\n```")
    assert len(failed.tags["mlflow.note.content"]) < 8000


def test_the_undefended_classifier_is_shown_once_certified(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    assert source_of(directory, "undefended").view() is None
    directory.undefended.path.mkdir()
    write_outcome(directory.undefended, split="test", radius=0.05)
    view = view_of(directory, "undefended")
    assert (view.name, view.status) == ("undefended (test)", "FINISHED")
    assert points(view, "test/average_certified_radius") == [(0, 0.05)]


def test_stamps_change_with_every_replaced_file_and_not_with_the_checkpoint(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    folder = directory.trial(0)
    write_complete_trial(folder, 0)
    source = source_of(directory, "trials/0")
    before = source.stamps()
    (folder.path / "checkpoint.pt").write_bytes(b"another state")
    assert source.stamps() == before
    for path in (folder.state_path, folder.certificates_path, folder.record_path):
        previous = source.stamps()
        write_text(path, path.read_text())
        changed = {name for name, stamp in source.stamps().items() if previous[name] != stamp}
        assert changed == {path.name}


def test_best_so_far_never_falls_and_waits_for_running_trials(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for number, radius in enumerate((0.2, 0.1, 0.5)):
        write_complete_trial(directory.trial(number), number, radius=radius)
    begin(directory.trial(3), 3)
    end(directory.trial(3), "pruned")
    begin(directory.trial(4), 4)
    write_complete_trial(directory.trial(5), 5, radius=0.9)
    found = best_so_far(directory)
    assert [(m.step, m.value) for m in found if m.metric == "sweep/trial"] == [
        (number, number) for number in range(4)
    ]
    assert [(m.step, m.value) for m in found if m.metric == "sweep/best_so_far"] == [
        (0, 0.2),
        (1, 0.2),
        (2, 0.5),
        (3, 0.5),
    ]
    write_complete_trial(directory.trial(4), 4, radius=0.3)
    found = best_so_far(directory)
    best = [m.value for m in found if m.metric == "sweep/best_so_far"]
    assert best == [0.2, 0.2, 0.5, 0.5, 0.5, 0.9]


def test_objectives_are_metrics_of_trials_unless_they_are_the_radius_alone(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, objectives=["certified_accuracy@0.25", "parameters"])
    write_complete_trial(directory.trial(0), 0)
    points = [m for m in view_of(directory, "trials/0").measurements if "objective" in m.metric]
    assert [(m.metric, m.step, m.value) for m in points] == [
        ("objective/certified_accuracy_at_0.25", 1, 0.05),
        ("objective/certified_accuracy_at_0.25", 2, 0.1),
        ("objective/parameters", 2, 6.0),
    ]
    best = [m.value for m in best_so_far(directory) if m.metric == "sweep/best_so_far"]
    assert best == [0.5]


def test_the_sweep_is_running_until_its_leaderboard(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    view = view_of(directory, "sweep")
    assert (view.name, view.status, view.ended) == ("digits", "RUNNING", None)
    write_board(directory)
    write_text(directory.accuracy_figure_path, "curves")
    write_text(directory.page_path, "the page")
    view = view_of(directory, "sweep")
    assert view.status == "FINISHED"
    assert view.ended is not None
    assert set(view.artifacts) == {
        "sweep.json",
        "leaderboard.json",
        "leaderboard.md",
        "report.html",
        "figures/certified_accuracy.png",
    }


def test_a_running_trial_shows_its_inputs_code_and_load(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    folder = directory.trial(0)
    begin(folder, 0)
    write_json(folder.inputs_path, {"classifier": "a" * 64, "limited_data": "b" * 64})
    code = CodeRecord(version="0.1.0", commit="f" * 40, host="node7")
    write_json(folder.code_path, code.model_dump(mode="json"))
    write_json(
        folder.system_path,
        [
            {"seconds": 5, "cpu_utilization_percentage": 80.0},
            {"seconds": 10, "cpu_utilization_percentage": 20.0},
        ],
    )
    view = view_of(directory, "trials/0")
    assert [(put.name, put.digest, put.context) for put in view.inputs] == [
        ("cifar10: limited data", "b" * 64, "training"),
        ("classifier: auto", "a" * 64, "protected"),
    ]
    assert view.tags["hash.limited_data"] == "b" * 64
    assert view.tags["mlflow.source.git.commit"] == "f" * 40
    assert view.tags["decrop.version"] == "0.1.0"
    load = [m for m in view.measurements if m.metric == "system/cpu_utilization_percentage"]
    assert [(m.step, m.value) for m in load] == [(5, 80.0), (10, 20.0)]
    assert load[0].time == STARTED + timedelta(seconds=5)


def test_a_trial_and_its_final_training_have_one_colour_and_others_another(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for number in (0, 1):
        begin(directory.trial(number), number)
    begin(directory.final(1), 1)
    colours = {
        key: view_of(directory, key).tags["mlflow.runColor"]
        for key in ("trials/0", "trials/1", "final/1", "sweep")
    }
    assert colours["trials/1"] == colours["final/1"]
    assert len(set(colours.values())) == 3


def test_a_finished_search_has_its_leaderboard(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for number, radius in enumerate((0.2, 0.1)):
        write_complete_trial(directory.trial(number), number, radius=radius)
    write_board(directory)
    view = view_of(directory, "sweep")
    ranking = json.loads(view.tables["ranking_table.json"].json())
    assert ranking["data"] == [["1", "trial 1", "0.300", "70.0", "50.0", "yes"]]
    table = json.loads(view.tables["leaderboard_table.json"].json())
    assert table["columns"] == ["rank", "classifier", "held out", "r = 0", "r = 0·25"]
    assert table["data"] == [["1", "trial 1", "0.300", "70.0 (60.0–80.0)", "61.5 (54.0–68.0)"]]
    text = sweep_description(directory, directory.read_record())
    assert text.startswith("Trial 1 won.\n")
    assert "70.0 (60.0–80.0) | 61.5 (54.0–68.0) |" in text and "50.0 | yes" not in text


def test_description_names_what_is_swept_with_its_domain(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path, space={"sigma": {"uniform": [0.1, 0.5]}})
    record = directory.read_record()
    text = sweep_description(directory, record)
    assert record.id in text and '"search": "tpe"' in text
    assert text.startswith("A sweep over DE-CROP's settings, not finished yet.")
    assert '- `sigma`: {"uniform":[0.1,0.5]}' in text
