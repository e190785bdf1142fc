"""Parametrizations with fewer cases, or of which only a few run without the slow tests."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[Any], *kept: int) -> list[Any]:
    """Returns the cases, with all but those at the given positions marked as slow.

    A case is what pytest.mark.parametrize takes; a tuple of it is one case of several arguments.
    """
    return [case if at in kept else _slow(case) for at, case in enumerate(cases)]


def slow_but_one_of(cases: Iterable[Any], each: int) -> list[Any]:
    """Returns the cases, with all but every `each`-th marked as slow."""
    return [_slow(case) if at % each else case for at, case in enumerate(cases)]


def half_of_product(*pairs: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Returns half of the choices of one from each pair, in which all but one meet in every way."""
    choices = enumerate(itertools.product(*pairs))
    return [choice for number, choice in choices if number.bit_count() % 2]


def _slow(case: Any) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, id=case.id, marks=(*case.marks, pytest.mark.slow))
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
