"""Cases of a parametrization of which a few stand for all where slow tests are left out."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[Any], *kept: int) -> list[Any]:
    """The cases, marked as slow but for those at these places.

    A case is what pytest.mark.parametrize takes; a tuple of it is one case of several arguments.
    """
    return [case if at in kept else _slow(case) for at, case in enumerate(cases)]


def slow_but_one_of(cases: Iterable[Any], each: int) -> list[Any]:
    """The cases, marked as slow but for the first of every `each`."""
    return [_slow(case) if at % each else case for at, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, id=case.id, marks=(*case.marks, pytest.mark.slow))
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
