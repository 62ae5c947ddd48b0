"""The operators of ATen that a program of torch.export may call: pure functions of tensors.

Not listed, and so refused by name: what reads or writes files, takes memory that it did not make
(`set_`, `as_strided`, `from_file`), leaves memory unwritten (`empty`), samples, or calls other
code (higher-order operators, custom ones).
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

_ELEMENTWISE = """
    abs add addcdiv addcmul asin atan atan2 bitwise_and bitwise_not bitwise_or ceil clamp clamp_max
    clamp_min cos cosh div eq erf erfc exp expm1 floor floor_divide fmod frac ge gt isfinite isinf
    isnan le lerp log log10 log1p log2 logical_and logical_not logical_or logical_xor lt masked_fill
    maximum minimum mul multiply nan_to_num ne neg pow reciprocal remainder round rsqrt rsub sign
    sin sinh sqrt square sub subtract tan tanh true_divide trunc where
"""
_ACTIVATIONS = """
    _log_softmax _prelu_kernel _softmax celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh
    leaky_relu log_sigmoid log_sigmoid_forward log_softmax mish prelu relu relu6 selu sigmoid silu
    softmax softplus softshrink threshold
"""
_LAYERS = """
    _adaptive_avg_pool2d _native_batch_norm_legit_no_training
    _scaled_dot_product_flash_attention_for_cpu _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _weight_norm _weight_norm_interface adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d
    addmm affine_grid_generator alpha_dropout avg_pool1d avg_pool2d baddbmm batch_norm bmm conv1d
    conv2d conv_transpose2d convolution cosine_similarity dot dropout einsum embedding
    feature_dropout grid_sampler grid_sampler_2d group_norm im2col instance_norm layer_norm linear
    matmul max_pool1d max_pool2d max_pool2d_with_indices mm mv native_dropout native_group_norm
    native_layer_norm rms_norm scaled_dot_product_attention upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d
"""
_REDUCTIONS = """
    all amax amin any argmax argmin cumsum linalg_vector_norm logsumexp max mean min norm prod sort
    std std_mean sum topk var var_mean
"""
_SHAPES = """
    T _to_copy _unsafe_view adjoint alias broadcast_to cat channel_shuffle chunk clone concat
    constant_pad_nd contiguous copy detach expand expand_as flatten flip gather index index_select
    lift_fresh_copy mT movedim narrow pad permute pixel_shuffle pixel_unshuffle reflection_pad1d
    reflection_pad2d repeat repeat_interleave replication_pad2d reshape roll select select_scatter
    slice slice_scatter split split_with_sizes squeeze stack swapaxes t tile to transpose tril triu
    type_as unbind unflatten unfold unsqueeze view view_as
"""
_MADE = """
    arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor
    zeros zeros_like
"""
_IN_PLACE = """
    abs_ add_ celu_ clamp_ clamp_max_ clamp_min_ copy_ detach_ div_ dropout_ elu_ exp_ fill_
    hardsigmoid_ hardswish_ hardtanh_ index_put_ leaky_relu_ masked_fill_ mish_ mul_ neg_ pow_ relu_
    relu6_ selu_ sigmoid_ silu_ sqrt_ sub_ tanh_ threshold_ zero_
"""
_ATEN = frozenset(
    " ".join((_ELEMENTWISE, _ACTIVATIONS, _LAYERS, _REDUCTIONS, _SHAPES, _MADE, _IN_PLACE)).split()
)
# May return what they are given; the schemas of others say so.
_MAY_RETURN_THEIR_INPUT = {
    "_unsafe_view",
    "alpha_dropout",
    "channel_shuffle",
    "dropout",
    "einsum",
    "feature_dropout",
    "pixel_shuffle",
    "pixel_unshuffle",
    "type_as",
}
# Growing with each argument, so that sizes for few and for many images bound those between.
SIZE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch.ops.aten.sym_size.int": torch.ops.aten.sym_size.int,
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.ge": operator.ge,
    "_operator.gt": operator.gt,
    "_operator.le": operator.le,
    "_operator.lt": operator.lt,
}
# They state what held for the exported images, and compute nothing.
ASSERTIONS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        "_assert_scalar.default",
        "_assert_tensor_metadata.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    )
)


def find_operator(target: str) -> OpOverload | None:
    """Return the operator that a program names, such as torch.ops.aten.relu.default, if listed."""
    namespace, _, rest = target.rpartition("torch.ops.aten.")
    name, _, overload = rest.partition(".")
    if namespace or name not in _ATEN or not overload.isidentifier():
        return None
    found = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(found, OpOverload):
        return None
    # Overloads that write into an argument named out, or one beside it.
    writes = written_arguments(found)
    return found if writes == ([0] if name.endswith("_") else []) else None


def written_arguments(found: OpOverload) -> list[int]:
    """Return the positions of the arguments that an operator writes into."""
    arguments = found._schema.arguments
    return [n for n, a in enumerate(arguments) if a.alias_info and a.alias_info.is_write]


def makes_memory(found: OpOverload) -> bool:
    """Return whether what an operator returns never shares memory with what it is given."""
    shared = any(value.alias_info for value in found._schema.returns)
    return not shared and found._schema.name.removeprefix("aten::") not in _MAY_RETURN_THEIR_INPUT
