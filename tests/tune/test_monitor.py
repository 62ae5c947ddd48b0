import importlib.util
import subprocess
import time
from pathlib import Path

import pytest
import torch

import decrop
from decrop.files import write_json
from tune import monitor
from tune.directory import SweepTrialFolder
from tune.monitor import code_record, monitored


def waited_for(folder: SweepTrialFolder, samples: int) -> None:
    deadline = time.monotonic() + 30
    while len(folder.read_system()) < samples:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_load_is_written_while_the_block_runs_and_at_its_end(tmp_path: Path) -> None:
    folder = SweepTrialFolder(tmp_path)
    with monitored(folder, interval=1.0):
        waited_for(folder, 1)
    samples = folder.read_system()
    assert 0 < samples[0]["system_memory_usage_percentage"] <= 100
    assert 0 <= samples[0]["cpu_utilization_percentage"] <= 100
    seconds = [sample["seconds"] for sample in samples]
    assert seconds == sorted(set(seconds))


def test_a_trial_taken_up_again_goes_on_after_its_last_sample(tmp_path: Path) -> None:
    folder = SweepTrialFolder(tmp_path)
    write_json(folder.system_path, [{"seconds": 100, "cpu_utilization_percentage": 1.0}])
    with monitored(folder, interval=1.0):
        waited_for(folder, 2)
    first, second = folder.read_system()[:2]
    assert first["seconds"] == 100
    assert 100 < second["seconds"] < 160


def test_a_long_trial_keeps_few_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_MOST_SAMPLES", 4)
    folder = SweepTrialFolder(tmp_path)
    write_json(folder.system_path, [{"seconds": second} for second in range(4)])
    with monitored(folder, interval=1.0):
        deadline = time.monotonic() + 30
        while len(folder.read_system()) == 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert [sample["seconds"] for sample in folder.read_system()][:2] == [0, 2]


def test_no_trouble_with_it_reaches_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("no /proc here")

    monkeypatch.setattr(monitor, "_sample", broken)
    folder = SweepTrialFolder(tmp_path)
    with monitored(folder, interval=0.01):
        time.sleep(0.1)
    assert folder.read_system() == []


def test_an_error_of_the_block_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), monitored(SweepTrialFolder(tmp_path)):
        raise ValueError("mine")


def test_code_has_the_commit_of_the_checkout_that_it_runs_from() -> None:
    head = subprocess.run(
        ["git", "-C", Path(decrop.__file__).parent, "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
    )
    # An unpacked archive is no checkout.
    assert code_record().commit == (head.stdout.strip() if head.returncode == 0 else None)
    assert code_record().version


def test_an_installed_package_inside_another_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    installed = tmp_path / "site-packages" / "decrop" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    monkeypatch.setattr(decrop, "__file__", str(installed))
    code_record.cache_clear()
    try:
        assert code_record().commit is None
    finally:
        code_record.cache_clear()


def test_the_load_of_a_gpu_is_written_by_a_process_that_computes_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not [name for name in monitor._sample() if name.startswith("gpu")]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10_000_000_000, 40_000_000_000))
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 73)
    sample = monitor._sample()
    # Named as MLflow names them, and of this process's GPU, where MLflow's own are of all.
    assert sample["gpu_0_utilization_percentage"] == 73
    assert sample["gpu_0_memory_usage_percentage"] == 75
    assert sample["gpu_0_memory_usage_megabytes"] == 30_000


def test_pytorch_finds_the_package_that_it_asks_for_the_load_of_a_gpu() -> None:
    assert importlib.util.find_spec("pynvml") is not None
