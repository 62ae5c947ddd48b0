"""`decrop certify` with helpers: as without, whoever draws and whatever interrupts it."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray

from decrop.evaluation.table import CertificateTable
from tests.commands import contents, decrop, set_options
from tests.decrop.digits_trial import certificates
from tests.mlflow_server.processes import eventually, free_port
from tests.tune.runs import FinishedSweep, end_session, session, started
from tests.tune.sharding import Watched
from tune.cluster import ClusterSize

pytestmark = pytest.mark.usefixtures("one_thread")

# Enough draws for helpers to find some left.
FIXED = ("certification.procedure=fixed", "certification.estimation_samples=4000")
ADAPTIVE = ("certification.procedure=adaptive", "certification.max_samples=20000")


def rows(path: Path) -> list[tuple[Any, ...]]:
    return certificates(CertificateTable.read_tsv(path))


@pytest.fixture
def samplers(local_ray: ClusterSize) -> Iterator[list[Watched]]:
    """Let commands use the Ray that runs already; what draws with helpers is in the list."""
    made = []

    def sharded(*given: Any, **named: Any) -> Watched:
        made.append(Watched(*given, **named))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.certify.cluster", lambda address: nullcontext(local_ray))
        patch.setattr("tune.certify.ShardedSampler", sharded)
        yield made


@pytest.mark.parametrize(
    "procedure",
    [pytest.param(FIXED, marks=pytest.mark.slow), ADAPTIVE],
    ids=["fixed", "adaptive"],
)
def test_rows_are_those_of_one_process(
    finished: FinishedSweep,
    samplers: list[Watched],
    tmp_path: Path,
    procedure: tuple[str, ...],
) -> None:
    bundle = finished.directory.bundle_path
    command = ["certify", bundle, *set_options(*procedure), "--out"]
    alone = decrop(*command, tmp_path / "alone.tsv")
    assert alone.code == 0 and not samplers

    def helped() -> bool:
        ran = decrop(*command, tmp_path / "shared.tsv", "--overwrite", "--helpers", 1)
        assert ran.code == 0, ran.out + ran.err
        assert rows(tmp_path / "shared.tsv") == rows(tmp_path / "alone.tsv")
        return samplers[-1].leases_by_helpers > 0

    # A helper may not even have imported PyTorch by then.
    assert eventually(helped, 60)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".json"} == {
        *("alone.tsv", "shared.tsv")
    }


@pytest.mark.slow
def test_a_certification_on_its_own_cluster_ends_it_and_can_go_on(
    finished: FinishedSweep, tmp_path: Path
) -> None:
    """It is interrupted once, and the same command finishes it."""
    many = set_options(FIXED[0], "certification.estimation_samples=10000")
    command = ["certify", finished.directory.bundle_path, *many, "--out"]
    assert decrop(*command, tmp_path / "alone.tsv").code == 0
    shared = tmp_path / "here" / "shared.tsv"
    counts = shared.with_name("shared.tsv.counts")

    def recorded() -> int:
        return counts.stat().st_size if counts.exists() else 0

    process = started(*command, shared, "--helpers", 1)
    try:
        assert eventually(lambda: recorded() > 10_000 or process.poll() is not None, 120)
        assert session(process.pid) > {process.pid}
        # As a terminal does, to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 130, printed
        assert "Traceback" not in printed
        assert eventually(lambda: not session(process.pid), 30)
    finally:
        end_session(process.pid)
    assert not shared.exists()
    kept = counts.read_bytes()
    assert kept

    process = started(*command, shared, "--helpers", 1)
    try:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        assert eventually(lambda: not session(process.pid), 30)
    finally:
        end_session(process.pid)
    assert rows(shared) == rows(tmp_path / "alone.tsv")
    assert {path.name for path in shared.parent.iterdir()} == {"shared.tsv", "shared.tsv.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--helpers", 1, "--address", "NOWHERE"], "--address NOWHERE: no Ray cluster answers"),
        (["--helpers", 1, "--address", "nonsense"], "--address nonsense: must be auto or HOST:"),
        (["--address", "auto"], "--address auto needs --helpers"),
    ],
)
def test_a_bad_address_is_one_line(
    finished: FinishedSweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    message: str,
) -> None:
    def start(**_: Any) -> None:
        raise AssertionError("Ray is asked for a cluster")

    monkeypatch.setattr(ray, "init", start)
    nowhere = f"127.0.0.1:{free_port()}"
    given = [nowhere if option == "NOWHERE" else option for option in options]
    out = tmp_path / "certificates.tsv"
    ran = decrop("certify", finished.directory.bundle_path, "--out", out, *given)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {message.replace('NOWHERE', nowhere)}")
    assert ran.err.count("\n") == 1
    assert not contents(tmp_path)
