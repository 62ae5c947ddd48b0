"""A denoiser as a program that runs where there is no decrop: ONNX, or torch.export's .pt2."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from decrop.errors import InputError, RunError
from decrop.seeds import torch_generator

TOLERANCE = 1e-4
_INPUT, _OUTPUT, _BATCH = "images", "denoised", "batch"
# Other sizes of a batch than the one that is traced.
_TRACED_BATCH = 2
_COMPARED_BATCHES = (1, 3)


def require_onnx() -> None:
    """Raise InputError unless what writes and checks ONNX files is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; install the extra with pip install 'decrop[onnx]'."
        ) from None


def write_onnx(denoiser: nn.Module, image_shape: tuple[int, int, int], path: Path) -> float:
    """Write a denoiser as ONNX, and compare what onnxruntime computes with PyTorch.

    Input `images` and output `denoised` are float32 [batch, C, H, W] in [0,1] pixels, with any
    batch.

    Args:
        denoiser: in eval mode, fp32, on the CPU.
        image_shape: C, H, W.

    Returns:
        the greatest absolute difference on random noisy images.

    Raises:
        RunError: the difference exceeds `TOLERANCE`.
    """
    require_onnx()
    # These come with an extra, and take seconds to import.
    import onnx
    import onnxruntime

    with _quiet_exporter():
        program = torch.onnx.export(
            denoiser,
            (torch.zeros(_TRACED_BATCH, *image_shape),),
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes={_INPUT: {0: _BATCH}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # without a path to write to, the exporter returns the program
    model = program.model_proto
    # They hold stack traces with the paths of this machine.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])

    return _agreement(denoiser, run, image_shape, path)


def write_torch_export(denoiser: nn.Module, image_shape: tuple[int, int, int], path: Path) -> float:
    """Write a denoiser as a program for `torch.export.load`, and compare it with the denoiser.

    Its module takes and returns float32 [batch, C, H, W] in [0,1] pixels, with any batch.

    Args:
        denoiser: in eval mode, fp32, on the CPU.
        image_shape: C, H, W.
        path: of the file, which ends in .pt2.

    Returns:
        the greatest absolute difference on random noisy images.

    Raises:
        RunError: the difference exceeds `TOLERANCE`.
    """
    with _quiet_exporter():
        program = torch.export.export(
            denoiser,
            (torch.zeros(_TRACED_BATCH, *image_shape),),
            dynamic_shapes=({0: Dim(_BATCH)},),
        )
        _drop_traces(program)
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    return _agreement(denoiser, loaded, image_shape, path)


def _agreement(
    denoiser: nn.Module,
    exported: Callable[[Tensor], Tensor],
    image_shape: tuple[int, int, int],
    path: Path,
) -> float:
    generator = torch_generator(0, "comparison of programs")
    greatest = 0.0
    with torch.no_grad():
        for batch in _COMPARED_BATCHES:
            images = torch.rand(batch, *image_shape, generator=generator)
            images += 0.25 * torch.randn(images.shape, generator=generator)
            difference = (exported(images) - denoiser(images)).abs().max().item()
            # Not max(), which passes over NaN.
            if not difference <= TOLERANCE:
                raise RunError(
                    f"{path.name} differs from the denoiser by {difference:.2g}, more than "
                    f"{TOLERANCE:g}; export without it, or with other versions of torch and onnx."
                )
            greatest = max(greatest, difference)
    return greatest


def _drop_traces(program: ExportedProgram) -> None:
    """Remove stack traces, which hold the paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    with warnings.catch_warnings():
        # PyTorch's exporter uses what PyTorch has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
