from pathlib import Path

import pytest
import torch

from decrop.errors import InputError
from decrop.smoothing import execution
from decrop.smoothing.execution import (
    resolve_certified_precision,
    resolve_device,
    resolve_precision,
)


def test_auto_prefers_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


def test_absent_cuda_is_refused_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(InputError, match="no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("avx512f avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx512f bf16x", "fp32")],
)
def test_auto_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, precision: str
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse2\n")
    monkeypatch.setattr(execution, "_CPU_INFO", cpu_info)
    assert resolve_precision("auto", torch.device("cpu")) == precision
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"


def test_auto_precision_is_fp32_where_the_processor_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution, "_CPU_INFO", tmp_path / "absent")
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("supported", "precision", "certified"), [(True, "bf16", "bf16"), (False, "fp32", "fp16")]
)
def test_auto_precision_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, supported: bool, precision: str, certified: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    device = torch.device("cuda")
    assert resolve_precision("auto", device) == precision
    assert resolve_certified_precision("auto", device) == certified
    assert resolve_certified_precision("fp32", device) == "fp32"
