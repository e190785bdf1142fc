"""Words that the project avoids, in messages and help texts; tests/docs/ checks the documents."""

import ast
import re

import pytest

from fastdqn.cli import main
from helpers.sources import FILES, relative

# Coined words, for which the glossary of the guide has plain ones. "stream.lanes" is a field.
BANNED = re.compile(
    r"(?<!\.)\b(told|tells|lanes?|whoever|somebody|anybody|anyone's|go on with|goes on)\b"
)


def messages(source: str) -> list[str]:
    """Returns the text in a source that a user may read: strings with a space, and help texts.

    Docstrings are left out, but for those of fields of dataclasses, which are help texts.
    """
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and " " in node.value
        and id(node) not in docstrings
    ]


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_messages_and_help_texts_use_the_words_of_the_field(file):
    found = [text for text in messages(file.read_text()) if BANNED.search(text)]
    assert found == []


def test_a_banned_word_is_found_in_messages_and_help_texts_only():
    source = '"""A lane."""\nclass A:\n  x: int = 1\n  """Of a lane."""\n\nraise E(f"lane {i} is")'
    assert [text for text in messages(source) if BANNED.search(text)] == ["Of a lane.", "lane "]
    assert BANNED.search("Lanes") is None
    assert not BANNED.search(main._USAGE)
