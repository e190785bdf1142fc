"""For tests of the documentation: pages, code blocks, commands, prose and links."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastdqn.cli.docs import TOPICS, DocsOptions
from fastdqn.cli.export import ExportOptions
from fastdqn.cli.options import (
    BenchOptions,
    EvalOptions,
    ProfileOptions,
    ResumeOptions,
    TrainOptions,
)
from fastdqn.cli.plot_and_report import PlotOptions, ReportOptions
from fastdqn.cli.sweep import SweepOptions
from fastdqn.cli.tabular import TabularOptions
from fastdqn.cli.video import VideoOptions

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "fastdqn" / "docs"
README, BENCHMARKS = ROOT / "README.md", ROOT / "benchmarks" / "README.md"
PAGES = (README, BENCHMARKS, *(GUIDE / f"{topic}.md" for topic in TOPICS))

# The dataclass of options of each command that has options.
RECORDS: dict[str, Any] = {
    "train": TrainOptions, "resume": ResumeOptions, "eval": EvalOptions, "bench": BenchOptions,
    "profile": ProfileOptions, "plot": PlotOptions, "report": ReportOptions,
    "export": ExportOptions, "video": VideoOptions, "tabular": TabularOptions,
    "sweep": SweepOptions, "docs": DocsOptions,
}  # fmt: skip

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)
_SHELL = ("", "sh")


class Block(NamedTuple):
    language: str
    text: str


def name_of(page: Path) -> str:
    """Returns README.md, benchmarks/README.md, or the topic of a page."""
    return page.stem if page.parent == GUIDE else page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """Returns the code blocks of a page in the given languages."""
    found = [Block(*each) for each in _BLOCK.findall(page.read_text())]
    return [block.text for block in found if block.language in languages]


def shell_lines(page: Path) -> list[str]:
    """Returns the lines of the shell blocks of a page."""
    return "\n".join(blocks(page, *_SHELL)).splitlines()


def commands(page: Path, program: str = "fastdqn") -> list[list[str]]:
    """Returns the arguments of every call of a program in the shell blocks of a page.

    A program is first in its line or behind `;` and the like, `do`, `-m`, NAME=VALUE, or options of
    a profiler. Its call ends where the shell goes on with something else; a variable counts as 1.
    """
    return [words for line in shell_lines(page) for words in _calls(line, program)]


def _calls(line: str, program: str) -> Iterator[list[str]]:
    if program not in line or line.startswith("#"):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "#", True
    words: list[str] | None = None
    before = ""
    for word in lexer:
        if set(word) <= set("();<>|&"):
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(re.sub(r"\$\w+", "1", word))
        elif word == program and (before in ("", "do", "-m") or "=" in before):
            words = []
        before = "" if set(word) <= set("();<>|&") else word
    if words is not None:
        yield words


def prose(page: Path) -> str:
    """Returns the prose of a page: no code, tables, images and URLs."""
    text = _BLOCK.sub("\n", page.read_text())
    text = re.sub(r"^(\||!\[).*$", "", text, flags=re.M)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"`[^`]*`", "Code", text, flags=re.S)


def sentences(page: Path) -> Iterator[str]:
    """Returns the sentences of a page. Headings and list items end a sentence."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-#]|\d+\.)\s?)", prose(page)):
        flat = " ".join(paragraph.split())
        yield from re.split(r"(?<=[.!?])\W*\s+(?=\W*[^a-z])", flat)


def inline_code(page: Path) -> list[str]:
    """Returns the inline code of a page."""
    return re.findall(r"`([^`\n]+)`", _BLOCK.sub("\n", page.read_text()))


def links(page: Path) -> list[str]:
    """Returns the targets of links and images in the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("\n", page.read_text()))
    return [target for target in targets if not target.startswith(("http://", "https://"))]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Returns the anchors of the headings of a page on GitHub."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("\n", page.read_text()), flags=re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return frozenset(heading.replace(" ", "-") for heading in plain)
