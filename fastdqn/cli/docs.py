"""The docs command: prints the pages of the guide and searches them."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

from fastdqn.cli import parser
from fastdqn.config.schema import ConfigError, unknown_name

# Reading order: first run, daily use, reference.
TOPICS = (
    "getting_started", "command_line", "presets", "environments", "compiled_envs", "algorithms",
    "replay", "atari", "gpu", "scaling",
    "checkpoints", "starting_points", "faults", "profiling", "experiments", "extending",
    "plugin_value", "plugin_loss",
    "plugin_torso", "plugin_backup", "plugin_sampler", "plugin_optimizer", "plugin_exploration",
    "plugin_learning_rate", "migration", "architecture", "tabular", "faq", "glossary", "changelog",
)  # fmt: skip


@dataclass(frozen=True)
class DocsOptions:
    search: str | None = None
    """Word to search for in all pages, or in TOPIC alone; case is ignored."""


class Hit(NamedTuple):
    """A line of a page that contains the searched word, with the heading above it."""

    topic: str
    heading: str
    line: str


def docs(args: list[str]) -> int:
    """Run `fastdqn docs [TOPIC] [--search WORD]`; returns the exit code.

    Raises ConfigError where the topic is unknown or the word is empty.
    """
    named = bool(args) and not args[0].startswith("-")
    topic = find_topic(args[0]) if named else None
    chosen, lines = parser.parse(args[named:], DocsOptions(), "fastdqn docs [TOPIC]")
    if chosen.search is not None and not chosen.search.strip():
        lines.append("search is empty: give a word, such as --search epsilon")
    if lines:
        raise ConfigError(lines)
    if chosen.search is not None:
        return _print_hits(chosen.search, [topic] if topic else TOPICS)
    if topic is None:
        print(contents())
    else:
        _print_page(read_page(topic))
    return 0


def find_topic(name: str) -> str:
    """The topic of a name such as 'Getting-started' or 'replay.md'. Raises ConfigError."""
    topic = name.lower().removesuffix(".md").replace("-", "_").replace(" ", "_")
    if topic not in TOPICS:
        raise ConfigError([unknown_name("topic", topic, TOPICS) + "; fastdqn docs lists all"])
    return topic


def read_page(topic: str) -> str:
    """The Markdown source of a page."""
    return _page(topic).read_text(encoding="utf-8")


def contents() -> str:
    """The list of pages: a line with the name and the purpose of each."""
    width = max(map(len, TOPICS))
    rows = [f"  {topic:{width}}  {purpose(read_page(topic))}" for topic in TOPICS]
    return "\n".join(["fastdqn docs TOPIC prints one of these pages:", "", *rows])


def purpose(page: str) -> str:
    """The first paragraph of a page: one sentence that states its purpose."""
    paragraph = page.split("\n\n")[1]
    return " ".join(paragraph.split())


def search(word: str, topics: Iterable[str] = TOPICS) -> list[Hit]:
    """Every line of the pages that contains word, in reading order; case is ignored."""
    return [
        Hit(topic, heading, line)
        for topic in topics
        for heading, line in _lines(read_page(topic))
        if word.lower() in line.lower()
    ]


def _lines(page: str) -> list[tuple[str, str]]:
    """Returns (heading above it, line) of each line, without taking comments for headings."""
    found, heading, in_code = [], "", False
    for line in page.splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("#") and not in_code:
            heading = line.lstrip("#").strip()
        found.append((heading, line.strip()))
    return found


def _print_hits(word: str, topics: Iterable[str]) -> int:
    """Print a line for each hit; returns 1 where there is none, as grep does."""
    hits = search(word, topics)
    for hit in hits:
        print(f"{hit.topic}: {hit.heading}: {hit.line}")
    if not hits:
        print(f"no page contains {word!r}")
    return 0 if hits else 1


def _print_page(page: str) -> None:
    """Print a page: formatted in a terminal, as Markdown source elsewhere."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(page))
    else:
        print(page, end="")


def _page(topic: str) -> Traversable:
    return resources.files("fastdqn") / "docs" / f"{topic}.md"
