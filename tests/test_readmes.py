"""What READMEs say can be done: commands, files, links."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from decrop.cli.options import load_trial
from tests.readmes import (
    DOCUMENTS,
    ROOT,
    anchors,
    blocks,
    commands,
    links,
    named_files,
    prose,
)
from tests.small_cifar10 import write_cifar10

FENCES = [
    block
    for document in DOCUMENTS
    for language in ("bash", "python", "yaml")
    for block in blocks(document, language)
]


def missing_link(document: Path, link: str) -> str | None:
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.exists():
        return f"{document.relative_to(ROOT)}: {link} does not exist"
    if anchor and anchor not in anchors(target):
        return f"{document.relative_to(ROOT)}: {link} is no heading"
    return None


def test_links_and_named_files_exist() -> None:
    wrong = [
        missing
        for document in DOCUMENTS
        for link in links(document)
        if not link.startswith(("http://", "https://"))
        and (missing := missing_link(document, link))
    ]
    wrong += [
        f"{document.relative_to(ROOT)}: {name} does not exist"
        for document in DOCUMENTS
        for name in named_files(document)
        if not (ROOT / name).exists()
    ]
    assert not wrong, "\n".join(wrong)


def test_the_first_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150 and len(text.split()) <= 1000


@pytest.fixture
def parser() -> Any:
    """The command line, of which every command parses its words and does nothing."""
    from typer.main import get_command

    from decrop.cli.main import build_app

    group: Any = get_command(build_app())
    for _, command in leaves(group):
        command.callback = lambda **_: None
    return group


def leaves(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", leaf) for inner, leaf in leaves(command))
        else:
            yield name, command


def test_the_first_readme_names_every_command(parser: Any) -> None:
    table = prose(ROOT / "README.md").partition("## Commands")[2].partition("## ")[0]
    assert set(re.findall(r"`([a-z ]+)`", table)) == {name for name, _ in leaves(parser)}


def test_every_command_takes_the_options_given(
    parser: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of blocks that are not run; targets of make and modules exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    wrong = []
    seen = 0
    for block in FENCES:
        for words in commands(block) if block.language == "bash" else ():
            seen += 1
            fault = ""
            if words[0] == "decrop":
                with pytest.raises(SystemExit) as ended:
                    parser(words[1:])
                fault = capsys.readouterr().err if ended.value.code else ""
            elif words[0] == "make" and not set(words[1:]) <= targets:
                fault = "no such target"
            elif words[:2] == ["python", "-m"] and not importlib.util.find_spec(words[2]):
                fault = "no such module"
            if fault:
                wrong.append(f"{block}: {' '.join(words)}: {fault}")
    assert seen > 30 and not wrong, "\n".join(wrong)


def test_sweep_files_and_settings_are_valid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tune.sweep_file import load_sweep

    monkeypatch.chdir(tmp_path)
    files = [block for block in FENCES if block.language == "yaml"]
    assert len(files) >= 5
    for number, block in enumerate(files):
        path, document = tmp_path / f"{number}.yaml", yaml.safe_load(block.text)
        path.write_text(block.text)
        if "name" in document:
            assert load_sweep(str(path)).name == document["name"], block
        else:
            assert load_trial(str(path), []).dataset.name == document["dataset"]["name"], block


def test_the_hooks_before_a_commit_are_the_checks_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = recipe[1].replace("$(BIN)", ".venv/bin").splitlines()
    assert [hook["entry"] for hook in hooks] == [check.strip() for check in checks]


# What lets a command that takes hours end in seconds, by its first words.
SMALLER = {
    "sweep quickstart": "--trials 3",
    "sweep cifar10_small": "--set limited.fraction=0.5",
    "train cifar10": "--set limited.fraction=0.3 --set boundary.steps=2 --set interpolation.steps=2"
    " --set denoiser.depth=3 --set denoiser.channels=4 --set training.epochs=2"
    " --set training.discriminator_epochs=1 --set training.evaluations=1"
    " --set certification.max_samples=120 --set certification.test_images=5",
    "classifier train classifier_cifar10_resnet20": "--set limited.fraction=0.5"
    " --set classifier.training.epochs=1",
}
COMMAND = """#!{python}
import sys
from decrop.cli import main
words = sys.argv[1:]
for prefix, more in {smaller}.items():
    if " ".join(words).startswith(prefix):
        words += more.split()
main(words)
"""
NETWORK = """
import torch
def make(depth):
    layers = [torch.nn.Conv2d(3, depth, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(depth, 10))
"""
PYTHON = """
import torch
from sklearn.datasets import load_digits
images = torch.from_numpy(load_digits().images[:4, None] / 16).float()
noisy_images = images + 0.1 * torch.randn_like(images)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the READMEs take for granted."""
    folder = tmp_path_factory.mktemp("readmes")
    (folder / "PATH/TO").mkdir(parents=True)
    write_cifar10(folder / "PATH/TO")
    torch.save({"weight": torch.zeros(1)}, folder / "checkpoint.pth.tar")
    (folder / "my_models.py").write_text(NETWORK)
    (folder / "bin").mkdir()
    command = folder / "bin/decrop"
    command.write_text(COMMAND.format(python=sys.executable, smaller=SMALLER))
    command.chmod(0o755)
    sweep = [command, "sweep", "quickstart"]
    subprocess.run(sweep, cwd=folder, env=environment(folder), check=True)
    return folder


def environment(folder: Path) -> dict[str, str]:
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{folder}"}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "document",
    [document for document in DOCUMENTS if document.name == "README.md"],
    ids=lambda document: str(document.relative_to(ROOT)),
)
def test_blocks_run(document: Path, prepared: Path, tmp_path: Path) -> None:
    """Every block but those marked as not run, in their order, in one folder a document."""
    for item in prepared.iterdir():
        (tmp_path / item.name).symlink_to(item)
    to_run = [
        block
        for block in FENCES
        if block.document == document and block.language != "yaml" and not block.not_run
    ]
    for block in sorted(to_run, key=lambda block: block.line):
        # The newest, which the block itself may make.
        text = block.text.replace("sweeps/quickstart-…", '"$(ls -d sweeps/* | tail -n 1)"')
        command = (
            ["bash", "-euo", "pipefail", "-c", text]
            if block.language == "bash"
            else [sys.executable, "-c", PYTHON + text]
        )
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment(prepared), capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{block}\n{text}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
