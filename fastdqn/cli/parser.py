"""Options: command-line words into a dataclass, by tyro, with all mistakes collected as lines."""

import ast
import contextlib
import io
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from fastdqn.cli.help import grouped
from fastdqn.config.limits import spell
from fastdqn.config.schema import RENAMED, as_fraction, unknown_name
from fastdqn.system.standard_streams import tell


class HelpShown(Exception):
    """The help was asked for and printed: there is nothing else to do."""


Options = TypeVar("Options")
_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _fraction_rule(info):
    if info.type is not Fraction:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER|P/Q",
        instance_from_str=lambda words: _parse_fraction(words[0]),
        is_instance=lambda value: isinstance(value, Fraction),
        str_from_instance=lambda value: [str(value)],
    )


@_REGISTRY.primitive_rule
def _kwargs_rule(info):
    if get_origin(info.type) is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=lambda words: dict(map(_parse_kwarg, words)),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={given!r}" for name, given in value.items()],
    )


def parse(args: Sequence[str], default: Options, prog: str) -> tuple[Options, list[str]]:
    """Parse args over a default instance: (options, mistakes).

    tyro stops at its first class of error. So where it refuses, each option is parsed alone:
    the options come back with whatever was right, and a line for each that was not.
    Prints the help and raises HelpShown where args ask for it.
    """
    args = [_current_name(word) for word in args]
    if "--help" in args or "-h" in args:
        shown = grouped(default)
        try:
            tyro.cli(type(shown), args=["--help"], default=shown, prog=prog, registry=_REGISTRY)
        except SystemExit:
            raise HelpShown from None
    parsed = _try(args, default, prog)
    if parsed is not None and "--" not in args:
        return parsed, []
    lines: list[str] = []
    hints = get_type_hints(type(default))
    if "config" in hints:
        hints |= get_type_hints(type(getattr(default, "config", None)))
    for group in groups(args):
        changed = _try(group, default, prog)
        if changed is None:
            lines.append(_mistake(group, hints))
        else:
            default = changed
    return default, lines or ["unexpected '--': options follow the name directly"]


def _current_name(word: str) -> str:
    """Returns an option by its name of today, and warns of an old one."""
    flag, equals, attached = word.partition("=")
    new = RENAMED.get(flag.removeprefix("--").replace("-", "_"))
    if new is None or not flag.startswith("--"):
        return word
    tell(f"warning: {flag} is now called --{new.replace('_', '-')}")
    return f"--{new.replace('_', '-')}{equals}{attached}"


def groups(args: Sequence[str]) -> list[list[str]]:
    """Each option with the words behind it; words before the first option are a group too."""
    groups: list[list[str]] = []
    for word in args:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _try(args: Sequence[str], default: Options, prog: str) -> Options | None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return tyro.cli(
                type(default), args=list(args), default=default, prog=prog, registry=_REGISTRY
            )
        except SystemExit:
            return None


def _mistake(group: list[str], hints: dict[str, Any]) -> str:
    word, *values = group
    if not word.startswith("--"):
        return f"unexpected argument {word!r}: options begin with --"
    flag, _, attached = word.partition("=")
    name = flag[2:].replace("-", "_")
    known = {"--" + key.replace("_", "-"): key for key in hints if key != "config"}
    known |= {"--no-" + key.replace("_", "-"): key for key, hint in hints.items() if hint is bool}
    if flag.replace("_", "-") not in known:
        return unknown_name("option", flag, known)
    given = " ".join([attached, *values] if attached else values)
    if name not in hints or hints[name] is bool:
        return f"{flag} is a switch: it takes no value, got {given!r}"
    if not given:
        return f"{flag} has no value: it must be {spell(hints[name])}"
    return f"{flag} is {given!r}: it must be {spell(hints[name])}"


def _parse_fraction(word: str) -> Fraction:
    value = as_fraction(word)
    if not isinstance(value, Fraction):
        raise ValueError(f"{word!r} is neither a number nor a fraction such as 1/3")
    return value


_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NUMBER = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)


def _parse_kwarg(word: str) -> tuple[str, Any]:
    """'size=8' to ('size', 8): a Python literal where it is one, else the text itself."""
    name, equals, text = word.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{word!r} is not NAME=VALUE")
    if text.lower() in _WORDS:
        return name, _WORDS[text.lower()]
    if _NUMBER.fullmatch(text):  # to be refused as the number that it is, not passed as a text
        return name, float(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, text
    return name, list(value) if isinstance(value, tuple) else value
