"""fastdqn docs: lists, prints and searches the pages of the guide."""

import contextlib
import io

import pytest
from rich.console import Console

from fastdqn.cli import docs
from fastdqn.cli.docs import TOPICS, contents, purpose, read_page, search
from helpers.command_line import ask


def test_without_a_topic_each_page_is_one_line_with_its_purpose():
    code, out, err = ask("docs")
    assert (code, err) == (0, [])
    lines = out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(TOPICS)
    assert max(map(len, lines)) <= 100
    assert out == contents() + "\n"


def test_every_file_of_the_guide_is_a_topic():
    folder = docs.resources.files("fastdqn") / "docs"
    assert {file.name for file in folder.iterdir()} == {f"{topic}.md" for topic in TOPICS}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_a_heading_and_then_one_sentence_of_purpose(topic):
    page = read_page(topic)
    assert page.startswith("# ")
    assert purpose(page).endswith(".")
    assert purpose(page).count(". ") == 0


@pytest.mark.parametrize("name", ["replay", "Replay", "replay.md"])
def test_a_page_is_printed_as_its_source_where_nobody_watches(name):
    assert ask("docs", name) == (0, read_page("replay"), [])


@pytest.mark.parametrize("name", ["getting-started", "getting started", "GETTING_STARTED"])
def test_names_of_several_words_may_be_written_in_any_usual_way(name):
    assert ask("docs", name)[1] == read_page("getting_started")


def test_a_terminal_gets_a_formatted_page(monkeypatch):
    monkeypatch.setattr(
        "rich.console.Console", lambda: Console(force_terminal=True, width=80, color_system=None)
    )
    with contextlib.redirect_stdout(io.StringIO()) as out:
        docs.docs(["glossary"])
    assert "# Glossary" not in out.getvalue()
    assert "Glossary" in out.getvalue()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replai"], "unknown topic 'replai': did you mean replay?; fastdqn docs lists all"),
        (["replay", "--serch", "x"], "unknown option '--serch': did you mean --search?"),
        (["--search", " "], "search is empty: give a word, such as --search epsilon"),
        (["replay", "atari"], "unexpected argument 'atari': options begin with --"),
    ],
)
def test_a_mistake_is_one_line(words, says):
    assert ask("docs", *words) == (2, "", [f"error: {says}"])


def test_a_search_names_page_heading_and_line():
    code, out, _ = ask("docs", "--search", "NOISY_sigma")
    assert code == 0
    assert all("noisy_sigma" in line for line in out.splitlines())
    assert out.startswith("algorithms: ")
    assert len(out.splitlines()) == len(search("noisy_sigma"))


def test_a_search_may_be_of_one_page():
    _, out, _ = ask("docs", "replay", "--search", "ring")
    assert {line.split(":")[0] for line in out.splitlines()} == {"replay"}


def test_a_search_without_a_hit_says_so_with_code_1():
    assert ask("docs", "--search", "zyzzyva") == (1, "no page contains 'zyzzyva'\n", [])


def test_a_comment_within_code_is_no_heading(monkeypatch):
    monkeypatch.setattr(docs, "read_page", lambda topic: "# A\n```sh\n# not\nword\n```\n")
    assert search("word", ["a"]) == [("a", "A", "word")]


def test_help_is_shown():
    code, out, _ = ask("docs", "--help")
    assert code == 0
    assert "--search" in out
