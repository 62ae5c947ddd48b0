"""Installs decrop into a new environment, without extras, and certifies with a bundle there.

Run by hand, for it downloads and takes minutes:

    python -m tests.benchmarks.fresh_install
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("decrop", "tune", "mlflow_server")
FILES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")
BUNDLES = REPOSITORY / "tests" / "data" / "bundles"

CERTIFY = """
import importlib.util, sys
import torch
import decrop
from decrop.data.datasets import load_dataset

for name in ("ray", "optuna", "mlflow", "onnx", "onnxruntime"):
    assert importlib.util.find_spec(name) is None, name
assert decrop.__file__.startswith(sys.prefix), decrop.__file__
model = decrop.load(sys.argv[1])
table = model.bundle.certificates
indices = torch.from_numpy(table.idx)
test = load_dataset(model.bundle.config.dataset).test
outcome = model.certify(test.images(indices), test.labels[indices], indices)
assert (outcome.prediction == table.predict).all()
assert (outcome.radius == table.radius).all()
print(len(indices), "certificates as recorded,", model.predict(test.images(indices)))
"""


def main() -> None:
    """Install, certify and verify; stop at the first thing that fails."""
    bundle = sorted(BUNDLES.iterdir())[-1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as temporary:
        source, folder = Path(temporary) / "source", Path(temporary) / "environment"
        source.mkdir()
        # A copy, for building leaves files in the source.
        for package in PACKAGES:
            shutil.copytree(REPOSITORY / package, source / package)
        for file in FILES:
            shutil.copy(REPOSITORY / file, source)
        started = time.monotonic()
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", "-c", source / "constraints.txt"]
        commands = [
            [*install, source],
            [python, "-c", CERTIFY, bundle],
            [folder / "bin" / "decrop", "verify", bundle],
        ]
        for command in commands:
            subprocess.run(command, check=True, cwd=temporary, env=environment)
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
