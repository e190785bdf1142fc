"""Validation of single options: types and limits."""

import math
import types
from fractions import Fraction
from typing import Any, Literal, Union, get_args, get_origin

from fastdqn.config.conflicts import conflicts
from fastdqn.config.option import Limit, Option
from fastdqn.config.recorded_numbers import info_key_problems
from fastdqn.config.registry import CUSTOM

# `int | None` has the first origin, `Literal["a"] | None` the second.
_UNIONS = (types.UnionType, Union)


def type_problems(values: dict[str, Any], options: dict[str, Option]) -> list[str]:
    """Returns a message for each value that does not have the type of its option."""
    return [
        f"{name} is {_short(values[name])}: it must be {spell(option)}"
        for name, option in options.items()
        if not fits(values[name], option)
    ]


def limit_problems(values: dict[str, Any], options: dict[str, Option]) -> list[str]:
    """Returns a message for each value beyond its limits, and for each conflict of the others."""
    outside = {name: beyond(name, values[name], options[name].limit) for name in options}
    lines = [line for line in outside.values() if line]
    # Conflicts compute with values and format them, which fails for numbers such as 10**400.
    usable = {name: options[name].default if outside[name] else values[name] for name in options}
    for names, broken, line in conflicts(types.SimpleNamespace(**usable)):
        if broken and not any(outside.get(name) for name in names.split()):
            lines.append(line)
    lines += info_key_problems(values["info_keys"])
    if values["learner"] == "fused" and (rest := beyond_fused(values, options)):
        lines.append(
            f"learner is fused, which does not support {' or '.join(rest)}: use --learner auto"
        )
    return lines


def beyond_fused(values: dict[str, Any], options: dict[str, Option]) -> list[str]:
    """Returns the options, with their values, that the fused learner does not support."""
    chosen = []
    for name, option in options.items():
        value = values[name]
        if option.fused is None or value in option.fused:
            continue
        if name == "dueling_gradient_scale" and not values["dueling"]:
            continue  # it has no effect
        number = f"{value:g}" if isinstance(value, float) else value
        chosen.append(name if isinstance(value, bool) else f"{name} {number}")
    return chosen


def beyond(name: str, value: Any, limit: Limit | None) -> str | None:
    """Returns a message if a value, or a number of a tuple, is beyond the limit, else None."""
    if value is None or limit is None:
        return None
    for number in value if isinstance(value, tuple) else (value,):
        if not limit.holds(number):
            return f"{name} is {_short(number)}: it must be {limit.text}"
    return None


def fits(value: Any, option: Option) -> bool:
    """Returns whether a value has the type of an option, and if it names a part, its form."""
    if not _is_instance(value, option.hint):
        return False
    return option.part is None or (value in option.part.words or value == CUSTOM or _is_path(value))


def _is_path(name: str) -> bool:
    """Returns whether name has the form module:Name."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def _short(value: Any) -> str:
    """Returns a value as text, cut to 60 characters."""
    try:
        text = str(value) if isinstance(value, int | float | Fraction) else repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def _is_instance(value, hint) -> bool:
    if get_origin(hint) in _UNIONS:
        return any(_is_instance(value, arm) for arm in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_instance(v, get_args(hint)[0]) for v in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and _is_json(value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def _is_json(value: Any) -> bool:
    """Returns whether config.json can store the value and restore it unchanged."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(v) for key, v in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, int):
        return abs(value) < 1 << 64  # Python refuses to print very long integers
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has neither infinities nor NaN
    return value is None or isinstance(value, str)


def spell(option: Option) -> str:
    """Returns the type of an option in words."""
    if option.part is not None:
        words = ", ".join(option.part.words)
        return f"one of {words}, or a name such as my_module:MyPart"
    if option.name == "prefill":
        return ".npz files, run folders, or minari:ID"
    if option.name == "info_keys":
        return "keys of info, such as is_success"
    if option.name == "part_kwargs":
        return (
            "names with plain values, such as optimizer.beta2=0.98. For other values, such as "
            "tuples and infinities, name a function that makes the part"
        )
    return _spell(option.hint)


def _spell(hint) -> str:
    if get_origin(hint) in _UNIONS:
        return " or ".join(_spell(arm) for arm in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        if get_origin(get_args(hint)[0]) is Literal:
            return "any of " + ", ".join(get_args(get_args(hint)[0]))
        words = {int: "whole numbers", float: "numbers"}
        return words.get(get_args(hint)[0], "names such as my_package:MyWrapper")
    if get_origin(hint) is dict:
        return (
            "names with plain values, such as size=8 slippery=False. For other values, such as "
            "tuples and infinities, register a function that makes the environment"
        )
    names = {
        int: "a whole number",
        float: "a number",
        Fraction: "a number or a fraction such as 1/3",
        str: "a text",
        bool: "true or false",
        type(None): "None",
    }
    return names.get(hint) or f"a {hint.__name__.lower()}"
