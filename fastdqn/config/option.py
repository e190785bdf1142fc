"""Option: everything about one option, read from its field in a dataclass of options.

A field is the only source of an option: `name: Annotated[type, Group("learning"), Limit(0, 1)] =
default`, with its help text below it. Limits, help, completion, validation, the reader of weights
files and the choice of the fused learner all use options_of().
"""

import ast
import functools
import inspect
import math
import textwrap
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from fastdqn.config.registry import WORDS


@dataclass(frozen=True)
class Limit:
    """Interval of finite numbers: low <= x <= high, or low < x <= high where open."""

    low: float
    high: float = math.inf
    open: bool = False

    def holds(self, number) -> bool:
        try:
            finite = math.isfinite(number)
        except OverflowError:  # an integer or fraction that no float can hold
            return False
        if not finite:
            return False
        return (self.low < number if self.open else self.low <= number) and number <= self.high

    @property
    def text(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        low = f"above {self.low:,}" if self.open else f"at least {self.low:,}"
        return f"a number, {low}" + ("" if self.high == math.inf else f", at most {self.high:,}")


# The groups of options, in the order of the help.
GROUPS = (
    "environment", "table", "run", "actors", "start", "learning", "techniques", "network",
    "exploration", "evaluation", "performance", "output",
)  # fmt: skip


class Group(NamedTuple):
    """The title under which the help lists an option, one of GROUPS."""

    title: str


class Part(NamedTuple):
    """Marks an option that names a part: a registered word, or module:Name."""

    kind: str

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(WORDS[self.kind])


class Stored:
    """Marks an option that a network is rebuilt from: it is stored with the weights."""


class Before(NamedTuple):
    """The value that files mean which were written before the option existed."""

    value: Any


class Renamed(NamedTuple):
    """The old name of an option, which is accepted with a warning until 0.2."""

    old: str


class Repeated:
    """Marks an option that may be given several times, whose values may begin with a dash."""


class Flag(NamedTuple):
    """A second name of an option on the command line, for one that is a keyword of Python."""

    name: str


class Changes:
    """Marks an option that may change when a run is resumed."""


class Fused:
    """The values of an option that the fused learner supports. Unmarked options do not matter."""

    def __init__(self, *values: Any):
        self.values = values


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Name of its field.
        hint: Its type.
        default: Its default.
        group: Title in the help, or an empty string.
        limit: Interval of its numbers, or None.
        part: The kind of part that it names, or None.
        stored: Whether it is stored with the weights.
        before: Value in files that lack it.
        renamed: Its old name, or None.
        fused: Values that the fused learner supports, or None for all.
        repeated: Whether each use of the option adds a value.
        flag: Its second name on the command line, or None.
        changes: Whether it may change when a run is resumed.
    """

    name: str
    hint: Any
    default: Any
    group: str = ""
    limit: Limit | None = None
    part: Part | None = None
    stored: bool = False
    before: Any = None
    renamed: str | None = None
    fused: tuple[Any, ...] | None = None
    repeated: bool = False
    flag: str | None = None
    changes: bool = False


@functools.cache
def options_of(record: type) -> dict[str, Option]:
    """Returns the options of a dataclass by name, those of its base classes first.

    A field that overrides one of a base class keeps the marks that it does not replace.
    """
    marks: dict[str, dict[type, Any]] = {}
    hints: dict[str, Any] = {}
    for base in reversed(record.__mro__):
        declared = get_type_hints(base, include_extras=True)
        for name in inspect.get_annotations(base):
            hint, of_name = declared[name], marks.setdefault(name, {})
            if get_origin(hint) is Annotated:
                hint, *extras = get_args(hint)
                of_name |= {type(extra): extra for extra in extras}
            hints[name] = hint
    return {
        field.name: _option(field, hints[field.name], marks[field.name]) for field in fields(record)
    }


def _option(field: Any, hint: Any, marks: dict[type, Any]) -> Option:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    group, before = marks.get(Group, Group("")), marks.get(Before, Before(default))
    renamed, fused, flag = marks.get(Renamed), marks.get(Fused), marks.get(Flag)
    return Option(
        field.name, hint, default, group.title, marks.get(Limit), marks.get(Part),
        Stored in marks, before.value, renamed.old if renamed else None,
        fused.values if fused else None, Repeated in marks, flag.name if flag else None,
        Changes in marks,
    )  # fmt: skip


@functools.cache
def texts(record: type) -> dict[str, str]:
    """Returns the help text of each option: the string below its field, in one line."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base is object:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            text = below.value if isinstance(below, ast.Expr) else None
            name = field.target if isinstance(field, ast.AnnAssign) else None
            literal = text.value if isinstance(text, ast.Constant) else None
            if isinstance(name, ast.Name) and isinstance(literal, str):
                found[name.id] = " ".join(literal.split())
    return found
