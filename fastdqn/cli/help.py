"""Help texts: groups the options of a command by topic."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from fastdqn.config.option import GROUPS, Option, options_of, texts


def grouped(options: Any) -> Any:
    """Returns options with their config split into groups, for display only.

    Names, defaults and help texts stay the same. Options without a config are returned unchanged.
    """
    if not hasattr(options, "config"):
        return options
    config, groups = options.config, {}
    several = getattr(options, "several", ())
    arguments = _arguments(type(config), getattr(options, "default_text", None), several)
    shown = getattr(options, "shown", arguments)
    for name, option in options_of(type(config)).items():
        if name not in shown:
            continue
        member = (name, arguments[name], getattr(config, name))
        groups.setdefault(option.group, []).append(member)
    made = {title: _record(title, groups[title]) for title in GROUPS if title in groups}
    own = [
        (name, argument, getattr(options, name))
        for name, argument in _arguments(type(options)).items()
        if name != "config"
    ]
    nested = [(name, type(each), each) for name, each in made.items()]
    return _record("options", [*nested, *own])


def _record(name: str, members: list[tuple[str, Any, Any]]) -> Any:
    """Returns an instance of a new dataclass with fields (name, type, value)."""
    fields = [(each, kind) for each, kind, _ in members]
    made = dataclasses.make_dataclass(name, fields, namespace={"__doc__": ""})
    return made(**{each: value for each, _, value in members})


def _arguments(
    record: type, default_text: str | None = None, several: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the types of the fields, annotated with their help texts.

    Args:
        record: The dataclass.
        default_text: Shown in place of each default.
        several: Whole numbers of which the command takes several.
    """
    found = {}
    for name, option in options_of(record).items():
        metavar = "INT [INT ...]" if name in several else _metavar(option)
        text = texts(record).get(name, "")
        found[name] = Annotated[
            option.hint,
            tyro.conf.arg(
                name=option.flag, help=text, metavar=metavar, help_behavior_hint=default_text
            ),
        ]
    return found


def _metavar(option: Option) -> str | None:
    """Returns what the help shows for the value of an option. None: what its type says."""
    if option.flag == "config":
        return "FILE"
    if option.repeated:
        return '"OPTIONS"'
    return option.part and f"{{{','.join(option.part.words)}}}|MODULE:NAME"
