"""The one place that imports torchvision works beside any build of PyTorch."""

import ast
import pickle
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

import decrop
from decrop import _torchvision_operators as operators
from decrop._torchvision import torchvision

PACKAGE = Path(decrop.__file__).parent


def test_datasets_transforms_and_models_are_usable() -> None:
    from torchvision.transforms import v2

    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    assert torch.equal(v2.functional.horizontal_flip(image), image.flip(2))
    assert torchvision.datasets.CIFAR10.base_folder == "cifar-10-batches-py"
    block = torchvision.models.resnet.BasicBlock(4, 4)
    assert block(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("module", ["tune.worker", "tune.shards"])
def test_a_process_of_a_sweep_unpickles_its_networks(module: str) -> None:
    network = pickle.dumps(torchvision.models.resnet.BasicBlock(4, 4))
    code = f"import pickle, sys, {module}; pickle.load(sys.stdin.buffer)"
    ran = subprocess.run([sys.executable, "-c", code], input=network, capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_no_other_module_imports_it() -> None:
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            if any(name.split(".")[0] == "torchvision" for name in names):
                importers.add(path.relative_to(PACKAGE).as_posix())
    assert importers == {"_torchvision.py"}


def last_of_types(nodes: list[ast.AST]) -> int:
    """Return the last line that is there for types alone."""
    return max(
        (
            node.end_lineno or 0
            for node in nodes
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ),
        default=0,
    )


def test_it_is_imported_before_the_library_that_imports_it_too() -> None:
    users = 0
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        attacks = [
            node.lineno
            for node in nodes
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "art"
            # Not those for types, which the module begins with.
            and node.lineno > last_of_types(nodes)
        ]
        declared = [
            node.lineno
            for node in nodes
            if isinstance(node, ast.ImportFrom)
            and node.module == "decrop"
            and any(alias.name == "_torchvision" for alias in node.names)
        ]
        if attacks:
            users += 1
            assert declared and min(declared) < min(attacks), path
    assert users


def test_schemas_are_declared_exactly_where_the_operators_are_missing() -> None:
    assert (operators._library is None) == operators._compiled_operators_load()


@pytest.mark.parametrize(
    ("extensions", "loadable", "expected"),
    [([], [], False), (["_C.so"], [], False), (["_C.so", "_C_stable.so"], ["_C_stable.so"], True)],
)
def test_operators_load_if_any_extension_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extensions: list[str],
    loadable: list[str],
    expected: bool,
) -> None:
    for name in extensions:
        (tmp_path / name).touch()

    def load_library(path: Path) -> None:
        if path.name not in loadable:
            raise OSError("undefined symbol")

    spec = ModuleSpec("torchvision", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(operators.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(torch.ops, "load_library", load_library)
    assert operators._compiled_operators_load() == expected
