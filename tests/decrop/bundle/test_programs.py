"""Exported programs compute what the denoiser computes, without decrop."""

import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from decrop.bundle import programs
from decrop.bundle.programs import TOLERANCE, require_onnx, write_onnx, write_torch_export
from decrop.config import DenoiserSettings
from decrop.config.denoiser import DENOISERS
from decrop.errors import InputError, RunError
from decrop.networks.registry import build_denoiser
from tests.cases import slow_but

SHAPES = {
    "dncnn": (1, 8, 8),
    "dncnn_wide": (3, 8, 6),
    "memnet": (3, 5, 8),
    "unet": (3, 9, 7),
    "ffdnet": (3, 9, 8),
    "drunet": (3, 8, 7),
}

# In a process of its own, in which decrop cannot be imported.
RUN_TORCH_EXPORT = """
import sys
sys.modules["decrop"] = None
import torch
from safetensors.torch import load_file, save_file
program = torch.export.load(sys.argv[1]).module()
images = load_file(sys.argv[2])
save_file({name: program(batch).contiguous() for name, batch in images.items()}, sys.argv[3])
assert not [name for name in sys.modules if name.startswith("decrop.")]
"""


def denoiser(architecture: str, channels: int) -> nn.Module:
    """Not the identity, which an untrained one is, and with statistics of its own."""
    settings = DenoiserSettings.model_validate({"source": architecture, "depth": 4, "channels": 8})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_denoiser(settings, image_channels=channels)
        for parameter in network.parameters():
            # Less in wide layers, whose outputs would grow from one to the next.
            fan_in = parameter[0].numel() or 1
            nn.init.normal_(parameter, std=min(0.1, fan_in**-0.5))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                nn.init.normal_(buffer, std=0.1)
            if name.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 1.5)
    return network.eval()


def noisy_images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(shape, generator=generator) + 0.25 * torch.randn(shape, generator=generator)


def assert_same(network: nn.Module, images: Tensor, denoised: Tensor) -> None:
    with torch.no_grad():
        expected = network(images)
    assert denoised.dtype == torch.float32
    assert denoised.shape == images.shape
    assert (denoised - expected).abs().max() <= TOLERANCE
    # The comparison would notice a program that does nothing.
    assert (expected - images).abs().max() > 100 * TOLERANCE


def test_every_architecture_is_tested() -> None:
    assert SHAPES.keys() == DENOISERS.keys() - {"none"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", slow_but(SHAPES, "dncnn"))
def test_onnx_agrees_with_pytorch(architecture: str, tmp_path: Path) -> None:
    shape = SHAPES[architecture]
    network, path = denoiser(architecture, shape[0]), tmp_path / "denoiser.onnx"
    assert write_onnx(network, shape, path) <= TOLERANCE
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", *shape])
    assert (returned.name, returned.shape) == ("denoised", ["batch", *shape])
    for batch in (1, 2, 5):
        images = noisy_images(batch, *shape)
        denoised = session.run(None, {"images": images.numpy()})[0]
        assert_same(network, images, torch.from_numpy(denoised))
    assert_no_paths(path)
    assert [file.name for file in tmp_path.iterdir()] == ["denoiser.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", slow_but(SHAPES, "dncnn"))
def test_torch_export_runs_without_decrop(architecture: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shape = SHAPES[architecture]
    network, path = denoiser(architecture, shape[0]), tmp_path / "denoiser.pt2"
    assert write_torch_export(network, shape, path) <= TOLERANCE
    images = {str(batch): noisy_images(batch, *shape) for batch in (1, 2, 5)}
    save_file(images, tmp_path / "images")
    process = subprocess.run(
        [sys.executable, "-I", "-c", RUN_TORCH_EXPORT, path, tmp_path / "images", tmp_path / "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    for name, denoised in load_file(tmp_path / "out").items():
        assert_same(network, images[name], denoised)
    assert_no_paths(path)


def assert_no_paths(path: Path) -> None:
    content = path.read_bytes()
    for folder in (Path(programs.__file__).parents[2], Path(torch.__file__).parent, Path.home()):
        assert str(folder).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_onnx, write_torch_export])
@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_program_that_computes_something_else_is_noticed(
    write: object, wrong: float, tmp_path: Path
) -> None:
    class Changing(nn.Module):
        """Computes something else once it has been traced."""

        def __init__(self) -> None:
            super().__init__()
            self.network = denoiser("dncnn", 1)

        def forward(self, images: Tensor) -> Tensor:
            denoised: Tensor = self.network(images)
            return denoised if torch.compiler.is_compiling() else denoised + wrong

    path = tmp_path / "denoiser.pt2"
    with pytest.raises(RunError, match=r"denoiser\.pt2 differs from the denoiser by") as error:
        write(Changing().eval(), (1, 8, 8), path)  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"pip install 'decrop\[onnx\]'"):
        require_onnx()
