"""A sweep that nothing happened to, for comparison, and what each fault has cost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.sweeps import TRIALS, Sweep, must_equal, write_fixed

Lost = Callable[[str, Sweep], None]
# Sweeps of a busy machine, and what they wait for.
_SECONDS = 1200
_LOST = pytest.StashKey[list[tuple[str, float]]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that a run of all tests can take the quick ones only."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("faults")
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = Sweep(folder / "sweeps")
    with sweep.running("sweep", write_fixed(folder), "--out", sweep.parent):
        sweep.end()
    must_equal(sweep, sweep)
    # Every trial, the best one's final training and its bundle, and no denoiser; and trial 0's
    # final training, unless it is the best, which the last bits of a kind of processor decide.
    assert len(sweep.certificates()) in (6, 7)
    for trial in range(TRIALS):
        assert len({*map(tuple, sweep.certificates()[f"trials/{trial}/certificates.tsv"])}) > 10
    return sweep


@pytest.fixture
def lost(request: pytest.FixtureRequest, undisturbed: Sweep) -> Lost:
    """Note how much longer a sweep has taken for a fault, printed after the tests."""
    noted = request.config.stash.setdefault(_LOST, [])
    return lambda fault, sweep: noted.append((fault, sweep.seconds - undisturbed.seconds))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    noted = config.stash.get(_LOST, [])
    if noted:
        terminalreporter.section("seconds lost, against an undisturbed sweep")
        for fault, seconds in noted:
            terminalreporter.write_line(f"{seconds:+7.1f}  {fault}")
