"""The device, the precision and the memory layout that a computation runs in."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from decrop.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
Layout = Literal["channels_last", "contiguous"]

_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def resolve_device(setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that `setting` asks for; auto prefers CUDA."""
    has_cuda = torch.cuda.is_available()
    if setting == "cuda" and not has_cuda:
        raise InputError("device is cuda, but PyTorch finds no CUDA device; use auto or cpu.")
    return torch.device("cuda" if has_cuda and setting != "cpu" else "cpu")


def hardware_of(device: torch.device) -> str:
    """Name what a device computes with: a GPU's model, or what PyTorch uses of a CPU.

    Kernels are chosen by it, so that the last bits of a network's outputs depend on it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}" + (
        " and bf16" if _computes_in_bf16(device) else ""
    )


def resolve_precision(setting: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Return the precision that `setting` asks for; auto is bf16 where `device` computes in it.

    PyTorch emulates bf16 on processors without it, several times slower than fp32.
    """
    if setting != "auto":
        return setting
    return "bf16" if _computes_in_bf16(device) else "fp32"


def resolve_certified_precision(
    setting: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """Return the precision that `setting` asks for; auto is the fastest that `device` computes in.

    That is bf16, or fp16 on a GPU without bf16, or fp32.
    """
    if setting != "auto":
        return setting
    fastest = resolve_precision("auto", device)
    return "fp16" if fastest == "fp32" and device.type == "cuda" else fastest


def to_device(values: Sequence[Any], device: torch.device) -> Tensor:
    """Return integers on a device, int64, without waiting for it."""
    found = torch.tensor(values, dtype=torch.int64)
    # Only from pinned memory does a copy not wait.
    return (
        found.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else found.to(device)
    )


def reproducible_kernels() -> AbstractContextManager[None]:
    """Return the context in which kernels on a GPU give the same again, but a little slower."""
    # cuDNN otherwise rounds fp32 to TF32 and picks its algorithm by timing.
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


def resolve_layout(setting: Literal["auto", "channels_last", "contiguous"]) -> Layout:
    """Return the memory layout of images that `setting` asks for; auto is channels_last."""
    return "channels_last" if setting == "auto" else setting


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which networks with fp32 weights compute in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch has no public way to ask in all the versions that are supported.
    return _CPU_INFO.exists() and not _BF16_FLAGS.isdisjoint(_CPU_INFO.read_text().split())
