"""What a process of a sweep imports before it has anything to do with it."""

import subprocess
import sys

from tests.cases import cases

# Each takes its time, and every process that is started pays for it, all at once.
HEAVY = {
    *("art", "matplotlib", "mlflow", "plotly", "scipy.stats", "sklearn", "statsmodels"),
    *("torch._dynamo", "torchvision"),
}


@cases(
    ("process", "module", "needless"),
    [
        ("driver", "tune.sweep", HEAVY),
        ("trial", "tune.worker", HEAVY | {"optuna"}),
        # Ray Tune, which helpers do without, imports pandas.
        ("helper", "tune.shards", HEAVY | {"optuna", "pandas", "ray.tune", "tune.sweep_file"}),
    ],
)
def test_processes_import_what_attacks_draws_and_tests_only_when_they_do(
    process: str, module: str, needless: set[str]
) -> None:
    check = f"import sys, {module}; print(sorted({needless} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]", process
