"""Grid noise of a whole batch in one launch: Philox and the search of thresholds in Triton.

Triton comes with PyTorch for CUDA. The steps are integers, bit for bit those of
`decrop.smoothing.noise` without it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Counters of Philox, of four words each, that one program takes.
_BLOCK = 256


def thresholds_passed(keys: Tensor, limits: Tensor, count: int) -> Tensor:
    """Return how many thresholds the random bits under each key have passed, int32 [P, count].

    Args:
        keys: int64 [P, 2], the lower and the upper half of each key.
        limits: int64 [L], increasing, L >= 1.
        count: of random words under each key.
    """
    passed = torch.empty((len(keys), count), dtype=torch.int32, device=keys.device)
    first_stride = 1 << (len(limits).bit_length() - 1)
    programs = len(keys), triton.cdiv(triton.cdiv(count, 4), _BLOCK)
    _thresholds_passed[programs](
        keys, limits, passed, count, len(limits), first_stride, BLOCK=_BLOCK
    )
    return passed


@triton.jit  # type: ignore[untyped-decorator]
def _thresholds_passed(keys, limits, passed, count, limit_count, first_stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    counters = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    low = tl.zeros([BLOCK], tl.uint64) + tl.load(keys + 2 * row).to(tl.uint64, bitcast=True)
    high = tl.zeros([BLOCK], tl.uint64) + tl.load(keys + 2 * row + 1).to(tl.uint64, bitcast=True)
    first = tl.full([BLOCK], 0xD2E7470EE14C6C93, tl.uint64)
    second = tl.full([BLOCK], 0xCA5A826395121157, tl.uint64)
    a = (counters + 1).to(tl.uint64)
    b = tl.zeros([BLOCK], tl.uint64)
    c = tl.zeros([BLOCK], tl.uint64)
    d = tl.zeros([BLOCK], tl.uint64)
    for _ in range(10):
        high_a = tl.umulhi(a, first)
        high_c = tl.umulhi(c, second)
        a, b, c, d = high_c ^ b ^ low, c * second, high_a ^ d ^ high, a * first
        low += tl.full([BLOCK], 0x9E3779B97F4A7C15, tl.uint64)
        high += tl.full([BLOCK], 0xBB67AE8584CAA73B, tl.uint64)
    for word in tl.static_range(4):
        if word == 0:
            bits = a
        elif word == 1:
            bits = b
        elif word == 2:
            bits = c
        else:
            bits = d
        bits = (bits >> 1).to(tl.int64)
        below = tl.zeros([BLOCK], tl.int32)
        stride = first_stride
        while stride > 0:
            tried = below + stride
            there = tried <= limit_count
            limit = tl.load(limits + tried - 1, mask=there, other=0)
            below = tl.where(there & (limit <= bits), tried, below)
            stride = stride // 2
        place = 4 * counters + word
        tl.store(passed + row * count + place, below, mask=place < count)
