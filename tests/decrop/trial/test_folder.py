"""Every file of a trial has a place of its own, in its folder."""

from pathlib import Path

from decrop.trial.folder import TrialFolder


def test_files_lie_in_the_folder_apart_from_each_other(tmp_path: Path) -> None:
    paths = {name: path for name, path in vars(TrialFolder(tmp_path)).items() if name != "path"}
    assert len(set(paths.values())) == len(paths) == 13
    assert {path.parent for path in paths.values()} == {tmp_path}


def test_a_folder_is_not_made_by_naming_it(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "trial")
    assert folder.path == tmp_path / "trial"
    assert not folder.path.exists()
