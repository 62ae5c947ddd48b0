"""Code blocks, links and named files of the READMEs."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "decrop/README.md",
        "tune/README.md",
        "tune/cluster/README.md",
        "mlflow_server/README.md",
        "tests/README.md",
        "tests/benchmarks/README.md",
    )
]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```\n",
    flags=re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)
_ASSIGNMENT = re.compile(r"\w+=.*")
# `tests/README.md`, `.ci/run`: what begins with a folder of the repository.
_NAMED = re.compile(r"`((?:decrop|tune|mlflow_server|tests|\.github|\.ci)/[\w./-]*)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `not_run` is the reason that a comment before it gives."""

    document: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path, language: str) -> list[Block]:
    text = document.read_text()
    return [
        Block(
            document,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
        if found["language"] == language
    ]


def prose(document: Path) -> str:
    """The document without its blocks, in which # begins no heading."""
    return _BLOCK.sub("", document.read_text())


def links(document: Path) -> list[str]:
    return _LINK.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(document))
    }


def named_files(document: Path) -> list[str]:
    return _NAMED.findall(prose(document))


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each simple command of a block, without assignments before it."""
    pending = ""
    for line in block.text.replace("\\\n", " ").splitlines(keepends=True):
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # A quotation that goes on in the next line.
            continue
        pending = ""
        for end, simple in groupby(words, key=lambda word: set(word) <= set(";&|")):
            command = list(dropwhile(_ASSIGNMENT.fullmatch, simple))
            if command and not end:
                yield command
