"""What a process of a sweep imports before it has anything to do with it."""

import subprocess
import sys

HEAVY = {"matplotlib", "art", "torchvision", "torch._dynamo", "sklearn", "mlflow", "optuna"}


def test_workers_import_what_attacks_and_draws_only_when_they_do() -> None:
    """Each of them pays for it, all at once, before its first epoch."""
    check = f"import sys, tune.worker; print(sorted({HEAVY} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
