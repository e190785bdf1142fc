"""Space: the range or the choices of one option of a sweep, and their forms on the command line."""

import contextlib
import math
import re
import shlex
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

from fastdqn.builders import preflight
from fastdqn.config import limits
from fastdqn.config.conflicts import conflicts
from fastdqn.config.option import Option, options_of
from fastdqn.config.schema import RENAMED, Config, ConfigError, as_fraction, unknown_name


@dataclass(frozen=True)
class Space:
    """Values are plain: numbers, texts, true, false and None. plain() converts those of options.

    Attributes:
        kind: choices, or a uniform or log-uniform range.
        values: The choices, or both ends of the range, of the same type: int or float.
    """

    kind: Literal["choices", "uniform", "log"]
    values: tuple[Any, ...]

    def including(self, value: Any) -> "Space":
        """Returns a space that is extended by a value."""
        if self.kind != "choices":
            low, high = self.values
            return Space(self.kind, (min(low, value), max(high, value)))
        return self if value in self.values else Space(self.kind, (*self.values, value))

    def nearest(self, value: Any) -> Any:
        """Returns a value of an option if it is in the space.

        Else it returns the nearest end of the range, its low end for None, or the first choice.
        """
        if self.kind == "choices":
            return plain(value) if plain(value) in self.values else self.values[0]
        low, high = self.values
        return low if value is None else type(low)(min(max(low, value), high))

    def suggest(self, trial: Any, name: str) -> Any:
        """Returns the value of a trial of Optuna."""
        if self.kind == "choices":
            return self.rounded(trial.suggest_categorical(name, self.values))
        draw = trial.suggest_float if isinstance(self.values[0], float) else trial.suggest_int
        return self.rounded(draw(name, *self.values, log=self.kind == "log"))

    def rounded(self, value: Any) -> Any:
        """Returns a drawn value with three significant digits, and more in a narrow range.

        The result stays in the range. It is what a run gets, and what is printed.
        """
        if self.kind == "choices" or isinstance(value, int):
            return value
        low, high = self.values
        # The rounding error is at most 1/60 of the range.
        digits = math.ceil(2.5 + math.log10(max(-low, high) / (high - low)))
        return min(max(low, float(f"{value:.{digits}g}")), high)

    def to_json(self) -> Any:
        """Returns the form in a file of trials.

        A list is a log-uniform range if it is two floats, and choices otherwise: all that the
        files of earlier versions have. Other spaces name their kind.
        """
        pair = len(self.values) == 2 and all(isinstance(end, float) for end in self.values)
        if self.kind == ("log" if pair else "choices"):
            return list(self.values)
        return {self.kind: list(self.values)}


# Options that decide how fast DQN learns, and their values, around those of published agents on
# classic control.
SPACE: dict[str, Space] = {
    "learning_rate": Space("log", (1e-4, 1e-2)),
    "batch_size": Space("choices", (32, 64, 128, 256)),
    "train_frequency": Space("choices", (1, 2, 4, 8, 16)),
    "target_network_frequency": Space("choices", (250, 500, 1_000, 2_000, 5_000)),
    "gamma": Space("choices", (0.98, 0.99, 0.995, 0.999)),
    "n_steps": Space("choices", (1, 3, 5)),
    "exploration_fraction": Space("choices", (0.05, 0.1, 0.2, 0.4)),
    "exploration_final_eps": Space("choices", (0.01, 0.05, 0.1)),
    "hidden_sizes": Space("choices", ("64 64", "128 128", "256 256")),
}
# Why options cannot be searched, by name or by group.
_FIXED = {
    "seed": "every setting is trained with --seeds seeds",
    "atari_protocol": "returns of different environments cannot be compared",
    "environment": "returns of different environments cannot be compared",
    "evaluation": "evaluations compare the settings",
    "output": "runs of a sweep leave no folder",
}
# Types of options that may have a range, in the words of messages.
_NUMBERS = {int: "whole numbers", float: "numbers", Fraction: "numbers"}
_RANGE = re.compile(r"([^,]+?)\.\.([^,]+?)(:log)?")


def parse_search(words: Iterable[str]) -> tuple[dict[str, Space | None], list[str]]:
    """Parses NAME, NAME=LOW..HIGH, NAME=LOW..HIGH:log and NAME=A,B,C.

    Returns (spaces by option, None for the default one; error messages).
    """
    spaces, lines = dict[str, Space | None](), list[str]()
    options = options_of(Config)
    known = [name for name, option in options.items() if _reason(option) is None]
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        name = RENAMED.get(name, name)
        if name in spaces:
            lines.append(f"{name} is searched twice: name it once")
        elif name not in options:
            lines.append(unknown_name("option to search", name, known))
        elif reason := _reason(options[name]):
            lines.append(f"{name} cannot be searched: {reason}")
        elif equals:
            spaces[name] = None
            try:
                spaces[name] = _parse_space(text, options[name])
            except ConfigError as error:
                lines += error.lines
        elif name in SPACE:
            spaces[name] = None
        else:
            lines.append(f"{name} has no default range: use {_forms(options[name])}")
    return spaces, lines


def value_problems(config: Config, spaces: Mapping[str, Space | None]) -> list[str]:
    """Returns messages about ends and choices that a run with the options of config rejects.

    Searched options that exclude each other are no problem: trials with such values fail.
    """
    lines = []
    for name, space in spaces.items():
        for value in space.values if space else ():
            changed = config.replace(**option_values({name: value}))
            if changed == config:
                continue
            between = {
                line
                for names, broken, line in conflicts(types.SimpleNamespace(**vars(changed)))
                if broken and len(spaces.keys() & names.split()) > 1
            }
            found = preflight.check(changed, mistaken=True)
            lines += [f"--search {name}={value}: {line}" for line in found if line not in between]
    return lines


def plain(value: Any) -> Any:
    """Returns a value of an option as a number, text, bool or None, as the journal stores it."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else str(value)
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def option_values(setting: dict[str, Any]) -> dict[str, Any]:
    """Returns plain values as those of options."""
    hints = {name: options_of(Config)[name].hint for name in setting}
    return {
        name: _parse_value(value, hints[name]) if isinstance(value, str) else value
        for name, value in setting.items()
    }


def flags(setting: dict[str, Any]) -> str:
    """Returns plain values of options as words of the command line."""
    options = options_of(Config)
    return " ".join(_flag(options[name], value) for name, value in setting.items())


def _flag(option: Option, value: Any) -> str:
    flag = f"--{option.name.replace('_', '-')}"
    if option.hint is bool:
        return flag if value else f"--no-{flag[2:]}"
    if isinstance(value, str):
        several = get_origin(_kind(option.hint)) is tuple
        return shlex.join([flag, *(value.split() if several else [value])])
    return f"{flag} {str(value).removesuffix('.0')}"


def _reason(option: Option) -> str | None:
    """Returns why an option cannot be searched, or None."""
    if get_origin(option.hint) is dict:
        return "it has no plain values"
    return _FIXED.get(option.name) or _FIXED.get(option.group)


def _parse_space(text: str, option: Option) -> Space:
    """Parses what follows NAME=. Raises ConfigError."""
    match = _RANGE.fullmatch(text)
    if match is None and ".." in text and _kind(option.hint) in _NUMBERS:
        raise ConfigError([f"{option.name}={text} is no range: use {_forms(option)}"])
    if match is None:
        return _parse_choices(text, option)
    log = match[3] is not None
    if _kind(option.hint) in _NUMBERS:
        return _parse_range((match[1], match[2]), log, f"{option.name}={text}", option)
    if all(isinstance(_parse_value(end, float), float) for end in (match[1], match[2])):
        raise ConfigError([f"{option.name} is not a number: use {_forms(option)}"])
    return _parse_choices(text, option)  # such as paths with ..


def _parse_range(texts: tuple[str, str], log: bool, given: str, option: Option) -> Space:
    kind = _kind(option.hint)
    ends = tuple(_parse_value(text, kind) for text in texts)
    if any(isinstance(end, str) for end in ends):
        raise ConfigError([f"{given}: both ends must be {_NUMBERS[kind]}"])
    _check(ends, option)
    if kind is Fraction:
        kind = int if all(end.denominator == 1 for end in ends) else float
    low, high = map(kind, ends)
    if low >= high:
        raise ConfigError([f"{given}: the low end must be below the high end"])
    if log and low <= 0:
        raise ConfigError([f"{given}: the low end of a log-uniform range must be above 0"])
    return Space("log" if log else "uniform", (low, high))


def _parse_choices(text: str, option: Option) -> Space:
    name, texts = option.name, [each.strip() for each in text.split(",")]
    if not all(texts):
        raise ConfigError([f"{name}={text}: a choice is empty. Use {_forms(option)}"])
    values = [_parse_value(each, option.hint) for each in texts]
    _check(values, option)
    choices = tuple(dict.fromkeys(map(plain, values)))
    if len(choices) == 1:
        raise ConfigError([f"{name}={text} is a single choice: use {_forms(option)}"])
    return Space("choices", choices)


def _check(values: Iterable[Any], option: Option) -> None:
    """Raises ConfigError for values that do not have the type of an option, or exceed its limit."""
    lines = []
    for value in values:
        mistakes = limits.type_problems({option.name: value}, {option.name: option})
        beyond = None if mistakes else limits.beyond(option.name, value, option.limit)
        lines += [*mistakes, *([beyond] if beyond else [])]
    if lines:
        raise ConfigError(lines)


def _kind(hint: Any) -> Any:
    """Returns the type of an option beside None."""
    arms = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    return next(arm for arm in arms if arm is not type(None))


def _parse_value(text: str, hint: Any) -> Any:
    """Returns a text as a value of a type, or unchanged if it is none."""
    kind = _kind(hint)
    if kind is not hint and text.lower() == "none":
        return None
    if get_origin(kind) is tuple:
        return tuple(_parse_value(word, get_args(kind)[0]) for word in text.split())
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is Fraction:
        return as_fraction(text)
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _forms(option: Option) -> str:
    """Returns how the space of an option is written."""
    name, kind = option.name, _kind(option.hint)
    if kind in _NUMBERS:
        return f"{name}=LOW..HIGH, {name}=LOW..HIGH:log or {name}=A,B,C"
    return f"{name}=true,false" if kind is bool else f"{name}=A,B,C"
