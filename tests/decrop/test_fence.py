"""Fences: who was taken for dead writes nothing more."""

import shutil
from pathlib import Path

import pytest

from decrop.files import LostFolderError, fenced, write_json, write_text, write_whole


@pytest.fixture
def fence(tmp_path: Path) -> Path:
    path = tmp_path / "run" / ".fence"
    path.mkdir(parents=True)
    return path


def test_files_are_written_through_a_fence_and_leave_nothing_in_it(
    tmp_path: Path, fence: Path
) -> None:
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary.parent)
        temporary.write_text("whole")

    path = tmp_path / "run" / "trial" / "state"
    with fenced(tmp_path / "run", fence):
        write_whole(path, write)
        write_whole(tmp_path / "elsewhere", write)
    write_whole(path.with_name("after"), write)
    assert seen == [fence, tmp_path, path.parent]
    assert path.read_text() == "whole" and list(fence.iterdir()) == []


def test_a_process_that_was_stopped_right_before_its_rename_changes_nothing(
    tmp_path: Path, fence: Path
) -> None:
    path = tmp_path / "run" / "state"
    write_text(path, "before")

    def overtaken(temporary: Path) -> None:
        temporary.write_text("too late")
        shutil.rmtree(fence)
        path.write_text("the successor's")

    with fenced(tmp_path / "run", fence), pytest.raises(LostFolderError, match="was taken over by"):
        write_whole(path, overtaken)
    assert path.read_text() == "the successor's"
    assert [found.name for found in path.parent.iterdir()] == ["state"]


def test_nothing_is_begun_without_the_fence(tmp_path: Path, fence: Path) -> None:
    fence.rmdir()
    with fenced(tmp_path / "run", fence), pytest.raises(LostFolderError):
        write_json(tmp_path / "run" / "trials" / "0" / "state.json", {})
    assert list((tmp_path / "run").iterdir()) == []


def test_a_fence_ends_with_its_block_and_the_one_around_it_does_not(
    tmp_path: Path, fence: Path
) -> None:
    folder = tmp_path / "run"
    with fenced(folder, fence):
        # As trials that run in the driver's own process.
        with fenced(folder, None):
            write_text(folder / "a", "")
        fence.rmdir()
        with pytest.raises(LostFolderError):
            write_text(folder / "b", "")
    write_text(folder / "c", "")
    assert sorted(found.name for found in folder.iterdir()) == ["a", "c"]
