import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.files import write_json
from tests.tune.sweeps import ENDED, STARTED, begin, make_sweep
from tune import directory as directory_module
from tune.directory import SweepDirectory, TrialState


def test_create_makes_a_time_stamped_folder_that_opens(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    made = make_sweep(tmp_path / "sweeps", search="random")

    record = SweepDirectory.open(made.path).read_record()
    assert made.path == tmp_path / "sweeps" / f"digits-{record.created:%Y%m%d-%H%M%S}"
    assert before <= record.created <= datetime.now(UTC)
    assert (record.format, record.name, record.sweep.search) == (1, "digits", "random")
    assert len(record.id) == 32


def test_create_never_uses_an_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "now", lambda: STARTED)
    made = [make_sweep(tmp_path) for _ in range(3)]

    assert [one.path.name for one in made] == [
        "digits-20250301-120000",
        "digits-20250301-120000-2",
        "digits-20250301-120000-3",
    ]
    assert len({one.read_record().id for one in made}) == 3


def test_create_under_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot make a sweep directory"):
        make_sweep(tmp_path / "file")


def test_open_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no sweep directory"):
        SweepDirectory.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "field"), [({"format": 2}, "format"), ({"colour": "red"}, "colour")]
)
def test_open_names_the_field_it_does_not_understand(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    directory = make_sweep(tmp_path)
    document = json.loads(directory.record_path.read_text())
    write_json(directory.record_path, document | change)
    with pytest.raises(InputError, match=rf"sweep\.json: {field}: ") as caught:
        SweepDirectory.open(directory.path)
    assert "\n" not in str(caught.value)


def test_numbers_are_those_of_folders_in_numeric_order(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    assert directory.trial_numbers() == directory.final_numbers() == []

    for name in ("10", "2", "0", "01", "x", ".3.tmp"):
        (directory.trials_path / name).mkdir(parents=True)
    (directory.trials_path / "7").write_text("a file is no trial")
    begin(directory.final(4), 4)
    assert directory.trial_numbers() == [0, 2, 10]
    assert directory.final_numbers() == [4]
    assert directory.trial(2).path == directory.path / "trials" / "2"


def test_missing_files_are_none_or_empty(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path).trial(0)
    assert (folder.read_record(), folder.read_state(), folder.read_result()) == (None, None, None)
    assert (folder.read_history(), folder.read_reports()) == ([], [])


def test_broken_files_are_input_errors_with_their_path(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path).trial(0)
    write_json(folder.state_path, {"state": "asleep", "started": "2025-03-01T12:00:00Z"})
    write_json(folder.reports_path, {"evaluation": 1})
    write_json(folder.result_path, [])
    folder.history_path.write_text("[{")

    with pytest.raises(InputError, match=r"trials/0/state\.json: state: .*'asleep'"):
        folder.read_state()
    with pytest.raises(InputError, match=r"reports\.json is not a JSON list"):
        folder.read_reports()
    with pytest.raises(InputError, match=r"result\.json is not a JSON object"):
        folder.read_result()
    with pytest.raises(InputError, match=r"history\.json is not JSON"):
        folder.read_history()


@pytest.mark.parametrize(("state", "ended"), [("running", ENDED), ("pruned", None)])
def test_a_state_ended_exactly_when_it_is_not_running(state: str, ended: datetime | None) -> None:
    with pytest.raises(ValidationError, match="ended must be given"):
        TrialState.model_validate({"state": state, "started": STARTED, "ended": ended})


def test_a_retraining_from_its_own_seed_is_the_final(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    begin(directory.trial(3), 3, TrialConfig(seed=1))
    assert directory.retraining(3, 1).path == directory.final(3).path
    other = directory.retraining(3, 0)
    assert other.path == directory.final(3).path / "seeds" / "0"
    assert directory.retrained_seeds(3) == []
    for seed in (10, 0):
        directory.retraining(3, seed).path.mkdir(parents=True)
    assert directory.retrained_seeds(3) == [0, 10]
    assert directory.final_numbers() == [3]
