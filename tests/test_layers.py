"""Who may import whom: import-linter's contracts, as pyproject.toml states them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
CONFIGURATION = REPOSITORY / "pyproject.toml"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the packages that lie in `folder`."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--config", str(CONFIGURATION), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def empty_packages(tmp_path: Path) -> Path:
    """Empty modules under all the names that the contracts mention."""
    settings = tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]
    names = set(settings["root_packages"])
    for contract in settings["contracts"]:
        for layer in contract.get("layers", []):
            names.update(part.strip(" ()") for part in layer.replace(":", "|").split("|"))
        names.update(contract.get("protected_modules", []))
    for name in names:
        add(tmp_path, name)
    # An import that a contract lets through must be there.
    for contract in settings["contracts"]:
        for allowed in contract.get("ignore_imports", []):
            module, imported = allowed.replace("*", "example").split(" -> ")
            add(tmp_path, module, f"import {imported}\n")
    return tmp_path


def add(packages: Path, module: str, text: str = "") -> None:
    """Append a text to a module and make those above it."""
    folder = packages
    for name in module.split("."):
        folder = folder / name
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    with (folder / "__init__.py").open("a") as file:
        file.write(text)


def test_the_packages_keep_to_their_layers() -> None:
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr


def test_packages_that_import_no_more_than_they_may_pass(empty_packages: Path) -> None:
    result = lint_imports(empty_packages)
    assert result.returncode == 0, result.stdout + result.stderr


FORBIDDEN = [
    ("decrop.trial.run", "ray"),
    ("decrop.trial.run", "optuna"),
    ("decrop.trial.run", "mlflow"),
    ("decrop.cli", "tune"),
    ("decrop.cli", "mlflow_server"),
    ("mlflow_server", "decrop.config"),
    ("mlflow_server", "tune"),
    ("tune", "mlflow_server"),
    ("decrop.config", "decrop.cli"),
    ("decrop.networks", "decrop.training"),
    ("decrop.synthesis", "decrop.training"),
]


def test_forbidden_imports_are_found(empty_packages: Path) -> None:
    """All of them in one tree of packages, for each check of a tree takes seconds."""
    for module, imported in FORBIDDEN:
        add(empty_packages, module, f"import {imported}\n")
    result = lint_imports(empty_packages)
    assert result.returncode == 1
    found = [f"{module} -> {imported} " for module, imported in FORBIDDEN]
    assert [line for line in found if line not in result.stdout] == [], result.stdout
