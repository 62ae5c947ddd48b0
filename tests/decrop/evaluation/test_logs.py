"""Logs of published code, in the forms in which it prints them, with rows made up."""

import warnings
from pathlib import Path

import pytest

from decrop.errors import InputError
from decrop.evaluation.logs import read_log

# Of images 0, 20, 40 and 60: certified, abstained on, certified, certified wrong.
LOGS = {
    "randomized smoothing": """idx label predict radius correct time
0 3 3 0.378 1 0:00:13.736080
20 7 -1 0.0 0 0:01:00
40 4 4 0.341 1 1 day, 1:00:00.5
60 7 2 0.5 0 15.5""",
    "diffusion denoised smoothing": """idx label predict radius correct time
0 3 3 0.378 1 0:00:13.736080
20 7 -1 0.0 1 0:01:00
40 4 4 0.341 2 1 day, 1:00:00.5
60 7 2 0.5 2 0:00:15.5""",
    "FT-CADIS": """idx label predict radius correct_num correct time
0 3 3 0.378 1 True 0:00:13.736080
20 7 -1 0.0 1 False 0:01:00
40 4 4 0.341 2 True 1 day, 1:00:00.5
60 7 2 0.5 2 False 0:00:15.5""",
    "multi-scale denoised smoothing": """\
idx label predict radius r_neg correct pred_uc corr_uc stage time
0 3 3 0.378 -1e+02 1 3 1 0 0:00:13.736080
20 7 -2 0.0 -1e+02 0 7 1 1 0:01:00
40 4 4 0.341 -0.7 1 4 1 2 1 day, 1:00:00.5
60 7 2 0.5 -1.0 0 2 0 1 0:00:15.5""",
    "Black-Box-Defense": """idx label predict radius Sta_correct time count Sta_count
0 tensor([3]) 3 0.378 1 0:00:13.736080 1 1
20 tensor([7]) -1 0.0 0 0:01:00 1 1
40 tensor([4]) 4 0.341 1 1 day, 1:00:00.5 2 2
60 tensor([7]) 2 0.5 0 0:00:15.5 2 2""",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "log.tsv"
    path.write_text(text.replace(" ", "\t").replace("1\tday,\t", "1 day, ") + "\n")
    return path


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_is_read_by_the_names_of_its_columns(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_log(written(tmp_path, LOGS[kind]))
    assert table.idx.tolist() == [0, 20, 40, 60]
    assert table.label.tolist() == [3, 7, 4, 7]
    assert table.predict.tolist() == [3, -1, 4, 2]
    assert table.radius.tolist() == [0.378, 0.0, 0.341, 0.5]
    assert table.correct.tolist() == [True, False, True, False]
    assert table.seconds.tolist() == [13.73608, 60.0, 90_000.5, 15.5]
    assert table.record is None


def test_a_column_that_contradicts_label_and_predict_is_said(tmp_path: Path) -> None:
    text = LOGS["FT-CADIS"].replace("7 -1 0.0 1 False", "7 -1 0.0 1 True")
    with pytest.warns(UserWarning, match=r"column correct differs .* in 1 of 4 rows.* line 3"):
        table = read_log(written(tmp_path, text))
    assert table.correct.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("radius", "r", "radius is missing among idx, label, predict, r, "),
        ("idx", "radius", "line 1: has two columns radius; keep one"),
        ("20 7 -1", "20 7 -2", "line 3, column predict: '-2' must be -1 or a class"),
        ("-1 0.0", "-1 0.3", "line 3, column radius: '0.3' must be 0 on abstention"),
        ("0.341", "inf", "line 4, column radius: 'inf' must be a finite number"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path, LOGS["randomized smoothing"].replace(old, new))
    with pytest.raises(InputError, match=message):
        read_log(path)
