"""All that a GPU changes, tried in one go: one JSON and one Markdown page.

    python -m tests.benchmarks.gpu --out FOLDER
    python -m tests.benchmarks.gpu --out FOLDER --dataset-path CIFAR10 \\
        --classifier RESNET110.safetensors

It takes at most nine minutes and no network. Each part is a process of its own with a time limit,
so one that fails, hangs or lacks a package costs no other. Without a GPU the same parts run in
small on the CPU.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from decrop.files import write_json, write_text
from decrop.networks.dncnn import DnCNN
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.smoothing.noise import GridNoise, by_search
from decrop.smoothing.probe import probe_chunks_per_batch
from decrop.smoothing.sampling import LocalSampler, SamplingTask, full_batches

SIGMAS = (0.12, 0.25, 1.0)
# Values of a noisy image of CIFAR-10.
VALUES = 3 * 32 * 32
_MOST_ERROR = 2_000
# `decrop`, by whatever Python runs this.
COMMAND = ("-c", "import sys; from decrop.cli.main import run; sys.exit(run(sys.argv[1:]))")


@dataclass(frozen=True)
class Plan:
    """What all parts are given.

    Attributes:
        device: cpu or cuda.
        dataset_path: folder of CIFAR-10; digits without it.
        classifier: weights of a plain ResNet-110 of CIFAR-10; one is trained on digits without it.
    """

    device: str
    dataset_path: Path | None
    classifier: Path | None

    @property
    def on_cuda(self) -> bool:
        """Whether a GPU is tried."""
        return self.device == "cuda"


def noise(plan: Plan) -> dict[str, Any]:
    """Compare noise on the grid with that of the CPU, and time it."""
    device, cpu = torch.device(plan.device), torch.device("cpu")
    chunks, chunk_size = (256, 50) if plan.on_cuda else (4, 50)
    names = [(image, 1, 0) for image in range(chunks)]
    found: dict[str, Any] = {}
    for sigma in SIGMAS:
        here, there = (GridNoise(sigma, 0, chunk_size, on) for on in (device, cpu))
        steps = here.steps(names[:4], chunk_size * VALUES).cpu()
        different = int((steps != there.steps(names[:4], chunk_size * VALUES)).sum())
        rates = []
        for _ in range(5):
            started = time.perf_counter()
            here.steps(names, chunk_size * VALUES)
            if plan.on_cuda:
                torch.cuda.synchronize()
            rates.append(chunks * chunk_size / (time.perf_counter() - started))
        found[f"sigma {sigma}"] = {
            "steps_that_differ_from_the_cpu": different,
            "in_one_kernel": plan.on_cuda and here._passed is not by_search,
            "noisy_images_a_second": float(np.median(rates)),
        }
        if different:
            raise AssertionError(f"{different} steps of noise differ from the CPU's")
    return found


class Crowded(nn.Module):
    """Two classes of images; without a GPU it has no memory for more than 200 of them."""

    def __init__(self, on_cuda: bool) -> None:
        super().__init__()
        self.network = DnCNN(image_channels=3, depth=5, channels=64)
        self._most = None if on_cuda else 200

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 2] of images [B, C, H, W]."""
        if self._most is not None and len(images) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(images).flatten(2).mean(2)[:, :2]  # type: ignore[no-any-return]


def memory(plan: Plan) -> dict[str, Any]:
    """Find a batch that fits into a small share of the memory, and sample in it."""
    device, share = torch.device(plan.device), 0.02
    if plan.on_cuda:
        torch.cuda.set_per_process_memory_fraction(share)
    task = SamplingTask(
        network=Crowded(plan.on_cuda),
        images=torch.zeros((1, 3, 32, 32), dtype=torch.uint8),
        image_ids=torch.zeros(1, dtype=torch.int64),
        class_count=2,
        sigma=0.25,
        seed=0,
        chunk_size=50,
        chunks_per_batch=1,
        precision="fp32",
    )
    chunks = probe_chunks_per_batch(task, device)
    task = replace(task, chunks_per_batch=chunks)
    samples = LocalSampler(task, device).class_counts(full_batches(task, 4)).sum()
    found = {"chunks_per_batch": chunks, "samples": int(samples)}
    if plan.on_cuda:
        total = torch.cuda.get_device_properties(device).total_memory
        found |= {"share": share, "reserved": torch.cuda.max_memory_reserved() / total}
    return found


def decrop(plan: Plan) -> dict[str, Any]:
    """Train a denoiser for a ResNet-110 and certify it, by the command that users have."""
    few = [] if plan.on_cuda else ["limited.fraction=0.05", "certification.test_images=10"]
    if plan.dataset_path is None or plan.classifier is None:
        settings = ["digits", "classifier.source=cifar_resnet110"]
        settings += ["classifier.training.epochs=" + ("10" if plan.on_cuda else "1"), *few]
    else:
        settings = ["cifar10", f"dataset.path={plan.dataset_path}", *few]
        settings += ["classifier.source=cifar_resnet110", f"classifier.weights={plan.classifier}"]
        settings += ["training.epochs=10", "training.discriminator_epochs=2"]
        settings += ["certification.test_images=100"]
    preset, *changes = settings
    changes += ["execution.chunks_per_batch=auto", f"execution.device={plan.device}"]
    if not plan.on_cuda:
        changes += ["training.epochs=1", "training.discriminator_epochs=1"]
    options = [part for change in changes for part in ("--set", change)]
    with TemporaryDirectory() as folder:
        shown = _output([*COMMAND, "train", preset, *options, "--out", folder, "--json"])
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found


def sharing(plan: Plan) -> dict[str, Any]:
    """Sweep over two trials that share one GPU, each with a helper."""
    changes = ["trial.training.epochs=2", "trial.training.discriminator_epochs=1"]
    changes += ["trial.certification.test_images=20", f"trial.execution.device={plan.device}"]
    if plan.on_cuda:
        changes += ["resources.trial={cpu: 1, gpu: 0.3}", "resources.helper={cpu: 1, gpu: 0.2}"]
    options = [part for change in changes for part in ("--set", change)]
    with TemporaryDirectory() as folder:
        command = [*COMMAND, "sweep", "quickstart", *options, "--trials", "3"]
        shown = _output([*command, "--out", folder, "--json"])
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found


def of_benchmark(name: str) -> Callable[[Plan], dict[str, Any]]:
    """Return the part that runs another benchmark, quickly."""

    def run(plan: Plan) -> dict[str, Any]:
        shown = _output(
            ["-m", f"tests.benchmarks.{name}", "--quick", "--json", "--device", plan.device]
        )
        found: dict[str, Any] = json.loads(shown.splitlines()[-1])
        return found

    return run


@dataclass(frozen=True)
class Part:
    """A part, and the seconds it may take on a GPU; on a CPU, ten times as many."""

    run: Callable[[Plan], dict[str, Any]]
    seconds: float


PARTS = {
    "noise": Part(noise, 25),
    "memory": Part(memory, 25),
    "certify": Part(of_benchmark("certify"), 140),
    "train": Part(of_benchmark("train"), 90),
    "decrop": Part(decrop, 130),
    "sharing": Part(sharing, 125),
}


def _output(arguments: Sequence[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-_MOST_ERROR:] or done.stdout[-_MOST_ERROR:])
    return done.stdout


def _tried(name: str, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return what a part has found, or why it has not, and the seconds it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", name, *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
        found: dict[str, Any] = (
            {"found": json.loads(done.stdout.splitlines()[-1])}
            if done.returncode == 0
            else {"error": done.stderr[-_MOST_ERROR:]}
        )
    except subprocess.TimeoutExpired:
        found = {"error": f"took longer than {seconds:g} s"}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def page(document: dict[str, Any]) -> str:
    """Return the document as Markdown: each part's figures, or why it has none."""
    lines = [f"# {document['device']}", "", f"PyTorch {document['torch']}.", ""]
    for name, part in document["parts"].items():
        lines += [f"## {name}", "", f"{part['seconds']} s", ""]
        if "error" in part:
            lines += ["```", part["error"], "```", ""]
            continue
        lines += ["| | |", "| --- | --- |"]
        lines += [f"| {key} | {value} |" for key, value in _flat(part["found"]).items()]
        lines += [""]
    return "\n".join(lines)


def _flat(found: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return all numbers, words and truths by their path."""
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        elif isinstance(value, float):
            flat[f"{before}{key}"] = f"{value:.4g}"
        elif isinstance(value, (int, str)):
            flat[f"{before}{key}"] = value
    return flat


def main(
    out: Annotated[Path | None, typer.Option(help="Folder of gpu.json and gpu.md.")] = None,
    dataset_path: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Weights of a plain ResNet-110.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    part: Annotated[str | None, typer.Option(help=f"Only one of {', '.join(PARTS)}.")] = None,
) -> None:
    """Run all parts, or one, whose figures are printed."""
    on = resolve_device(device)  # type: ignore[arg-type]
    plan = Plan(on.type, dataset_path, classifier)
    if part is not None:
        print(json.dumps(PARTS[part].run(plan)))
        return
    if out is None:
        raise typer.BadParameter("give --out FOLDER")
    arguments = ["--device", on.type]
    for name, value in (("--dataset-path", dataset_path), ("--classifier", classifier)):
        arguments += [] if value is None else [name, str(value)]
    document: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if plan.on_cuda else "cpu",
        "torch": torch.__version__,
        "precision": resolve_precision("auto", on),
        "parts": {},
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, tried in PARTS.items():
        seconds = tried.seconds * (1 if plan.on_cuda else 10)
        document["parts"][name] = _tried(name, arguments, seconds)
        print(f"{name}: {document['parts'][name].get('error', 'done')}")
        # After each, for the next may be cut off from outside.
        write_json(out / "gpu.json", document)
        write_text(out / "gpu.md", page(document))


if __name__ == "__main__":
    typer.run(main)
