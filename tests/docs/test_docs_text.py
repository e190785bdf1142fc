"""README and guide as text: every option exists, every link resolves, the language is plain."""

import dataclasses
import re
import typing

import pytest

import fastdqn
from fastdqn.cli import parser
from fastdqn.config import option as config_option
from fastdqn.config.presets import PRESETS, defaults_of
from fastdqn.config.schema import Config
from fastdqn.tabular.config import TableConfig
from helpers.command_line import ask
from helpers.docs_pages import (
    BENCHMARKS,
    GUIDE,
    PAGES,
    README,
    RECORDS,
    ROOT,
    anchors,
    blocks,
    commands,
    inline_code,
    links,
    name_of,
    sentences,
)

PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)
# The name of another program, in tables of names, is no option of ours.
OF_OTHERS = {
    "--start-e",
    "--end-e",
    "--track",
    "--save-model",
    "--cuda-graph-trace",
    "--duration",
    "--max-restarts",
    "--nproc-per-node",
}


def options_of(record: type) -> set[str]:
    """Names of the options of a record, those of its config included."""
    hints = typing.get_type_hints(record)
    names = {each.flag for each in config_option.options_of(record).values() if each.flag}
    for name, hint in hints.items():
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        names |= options_of(hint) if nested else {name}
    return names


KNOWN = set().union(*map(options_of, RECORDS.values()))


def parsed(words: list[str]) -> list[str]:
    """The mistakes that the real parser finds in a command; nothing is run."""
    command, *rest = words
    if command not in RECORDS or "--help" in rest:
        return []
    count = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    subjects, rest = rest[:count], rest[count:]  # presets, folders, a part of bench
    record = RECORDS[command]
    if "config" not in typing.get_type_hints(record):
        return parser.parse(rest, record(), "fastdqn")[1]
    if command == "bench":
        rest, _ = parser.take_several(rest, "--num-envs")
    name = "cartpole" if len(subjects) < 1 + (command == "bench") else subjects[-1]
    default = PRESETS.get(name) or defaults_of(name)
    if command == "tabular":
        default = TableConfig()
    chosen, mistakes = parser.parse(rest, record(default), "fastdqn")
    return mistakes + chosen.config.problems()


def all_commands() -> list[str]:
    """Every different command of the pages."""
    found = dict.fromkeys("\0".join(words) for page in PAGES for words in commands(page))
    return [command.replace("\0", " ") for command in found]


@PAGE
def test_every_command_is_parsed_without_a_mistake(page):
    if name_of(page) == "extending":  # of options that its own diffs add: test_docs_techniques.py
        return
    for words in commands(page):
        assert parsed(words) == [], words


def test_many_commands_are_found_and_a_wrong_one_is_not_parsed():
    assert len(all_commands()) > 80
    assert commands(README)[0] == ["train", "cartpole"]
    assert parsed(["train", "cartpole", "--num-env", "3"]) != []
    assert parsed(["bench", "learner", "cartpole", "--gamma", "2"]) != []


@PAGE
def test_every_command_is_one_of_the_program(page):
    known = set(re.findall(r"^  fastdqn (\S+)", ask("--help")[1], flags=re.M))
    for words in commands(page):
        assert words[0] in known, words


@PAGE
def test_every_option_of_the_text_exists(page):
    benchmark = "\n".join(file.read_text() for file in (ROOT / "benchmarks").rglob("*.py"))
    for code in inline_code(page):
        if code.startswith(("ruff ", "pip ")):
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", code):
            name = flag[2:].replace("-", "_")
            exists = name in KNOWN or name.removeprefix("no_") in KNOWN
            assert exists or flag in OF_OTHERS or f'"{flag}"' in benchmark or flag in (
                "--help", "--version",
            ), f"{flag} in {code}"  # fmt: skip


@PAGE
def test_every_script_and_its_options_exist(page):
    for words in commands(page, "python"):
        if words[0] in ("-m", "-P"):
            continue
        script = ROOT / words[0]
        source = script.read_text() + (ROOT / "benchmarks" / "harness.py").read_text()
        own = words[: words.index("--")] if "--" in words else words
        for flag in (word for word in own if word.startswith("--")):
            assert f'"{flag}"' in source, f"{flag} of {script.name}"
        if "--" in words and "PRESET" not in words:
            assert parsed(["train", "cartpole", *words[words.index("--") + 1 :]]) == []
        for setting in (word.partition(": ")[2] for word in own if ": --" in word):
            assert parsed(["train", "cartpole", *setting.split()]) == []


@PAGE
def test_every_link_resolves(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@PAGE
def test_every_module_and_test_of_the_text_exists(page):
    for code in inline_code(page):
        if re.fullmatch(r"(fastdqn|benchmarks|tests)/[\w/.-]+\.(py|csv|json|md)", code):
            assert (ROOT / code).exists(), code
        if re.fullmatch(r"\w+/[\w/]+\.py|exploration\.py", code) and page.parent == GUIDE:
            assert (ROOT / "fastdqn" / code).exists() or (ROOT / code).exists(), code
        if re.fullmatch(r"results/[\w.-]+", code):
            assert (BENCHMARKS.parent / code).exists(), code
        match = re.fullmatch(r"(test_\w+?)(\*?)", code)
        if match and name_of(page) in ("faults", "extending"):
            assert list((ROOT / "tests").rglob(f"{match[1]}{match[2]}.py")), code


@PAGE
def test_every_path_given_to_pytest_exists(page):
    for words in commands(page, "pytest"):
        for word in words:
            assert not word.endswith(".py") or (ROOT / word).exists(), word
    for code in inline_code(page):
        for word in code.split()[1:] if code.startswith("pytest ") else []:
            assert not word.endswith(".py") or (ROOT / word).exists(), word


@PAGE
def test_pages_of_the_guide_link_to_related_ones(page):
    if page.parent == GUIDE and page.stem != "changelog":
        related = page.read_text().split("\n## ")[-1]
        assert related.startswith(("Related pages\n", "Next\n"))
        assert len(re.findall(r"^- \[", related, flags=re.M)) >= 2


@PAGE
def test_no_sentence_has_more_than_30_words(page):
    if page.stem == "changelog":
        pytest.skip("a list of what changed, not sentences")
    long = [each for each in sentences(page) if len(each.split()) > 30]
    assert long == []


def test_words_of_the_old_dialect_appear_in_the_glossary_alone():
    found = [
        f"{name_of(page)}: {line}"
        for page in PAGES
        if page not in (GUIDE / "glossary.md", BENCHMARKS)
        for line in page.read_text().splitlines()
        if re.search(r"\b(told|tells|lanes?)\b", line)
    ]
    assert found == []


def test_the_readme_is_short_and_has_the_two_commands():
    text = README.read_text()
    assert len(text.splitlines()) <= 220
    assert [block.strip() for block in blocks(README, "")] == [
        "pip install -e . && fastdqn train cartpole",
        "pip install -e '.[dev]' && pytest -n auto",
    ]


def test_the_version_is_that_of_the_package():
    assert f"version = {{{fastdqn.__version__}}}" in README.read_text()
    assert (
        f"\n## {fastdqn.__version__}\n" in (ROOT / "fastdqn" / "docs" / "changelog.md").read_text()
    )


def test_every_preset_and_page_is_named():
    text = (GUIDE / "presets.md").read_text()
    assert [name for name in PRESETS if f"`{name}`" not in text] == []
    readme = README.read_text()
    assert [page.name for page in PAGES[2:] if f"fastdqn/docs/{page.name}" not in readme] == []


def test_defaults_of_the_table_of_options_are_those_of_the_program():
    rows = re.findall(
        r"^\| `--([\w-]+)` \| (\S+) \|", (GUIDE / "command_line.md").read_text(), flags=re.M
    )
    assert len(rows) > 10
    for flag, default in rows:
        value = getattr(Config(), flag.replace("-", "_"))
        assert str(value) == default or float(value) == float(default), flag
