"""The names of fastdqn: what it promises, what completion in a notebook shows, what is there."""

import importlib
import inspect

import pytest

import fastdqn


def test_completion_shows_the_public_names_alone_whatever_was_imported_before():
    importlib.import_module("fastdqn.api")
    assert dir(fastdqn) == sorted(fastdqn.__all__)


def test_each_public_name_is_there_and_has_a_docstring_where_it_is_code():
    for name in fastdqn.__all__:
        found = getattr(fastdqn, name)
        assert not callable(found) or inspect.getdoc(found), name


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fastdqn' has no attribute 'no_such_name'"):
        fastdqn.no_such_name  # noqa: B018
