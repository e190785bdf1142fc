"""SameBits: a definition in place of one of Gymnasium's environments."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastdqn.compiled.definition import EnvDefinition


class SameBits(NamedTuple):
    """How to make the definition.

    Attributes:
        entry_point: Gymnasium's class, as its registry names it. Another class under the same id is
            not replaced.
        arguments: Constructor arguments that the definition knows. With another one, it is not
            used.
        build: Makes a definition from the id and such arguments.
        fits: Whether it exists for the values of the arguments.
    """

    entry_point: str
    arguments: frozenset[str]
    build: Callable[[str, dict[str, Any]], EnvDefinition]
    fits: Callable[[dict[str, Any]], bool] = lambda arguments: True
