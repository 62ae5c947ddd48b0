"""Who drew how many samples, before a trial was cut off and after it."""

from pathlib import Path

from tests.tune.sweeps import write_complete_trial
from tune.directory import SweepTrialFolder
from tune.mlflow.trial_view import TrialSource
from tune.sample_counts import SampleCounts


def test_samples_add_up_over_attempts(tmp_path: Path) -> None:
    folder = SweepTrialFolder(tmp_path / "0")
    assert folder.read_samples() == {}
    first = SampleCounts(folder.read_samples())
    first.add("10.0.0.1", "trial", 300)
    first.add("10.0.0.2", "helpers", 20)
    folder.write_samples(first)
    second = SampleCounts(folder.read_samples())
    second.add("10.0.0.2", "trial", 500)
    second.add("10.0.0.2", "helpers", 7)
    folder.write_samples(second)
    assert folder.read_samples() == {
        "10.0.0.1": {"trial": 300, "helpers": 0},
        "10.0.0.2": {"trial": 500, "helpers": 27},
    }


def test_mlflow_shows_who_drew(tmp_path: Path) -> None:
    folder = SweepTrialFolder(tmp_path / "0")
    write_complete_trial(folder, 0)
    source = TrialSource("trials/0", "trial 0", "trial", folder)
    before, view = source.stamps(), source.view()
    assert view is not None and "decrop.samples" not in view.tags
    drawn = SampleCounts()
    drawn.add("10.0.0.1", "trial", 300)
    folder.write_samples(drawn)
    assert source.stamps() != before
    view = source.view()
    assert view is not None
    assert view.tags["decrop.samples"] == '{"10.0.0.1": {"trial": 300, "helpers": 0}}'
