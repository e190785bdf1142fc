"""Help texts: groups the options of a command by topic."""

import dataclasses
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
    arguments = _arguments(type(config), getattr(options, "default_text", None))
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


def _arguments(record: type, default_text: str | None = None) -> dict[str, Any]:
    """Returns the types of the fields, annotated with their help texts.

    default_text: shown in place of each default.
    """
    return {
        name: Annotated[option.hint, _argument(option, texts(record).get(name, ""), default_text)]
        for name, option in options_of(record).items()
    }


def _argument(option: Option, text: str, default_text: str | None) -> Any:
    metavar = None
    if option.repeated:
        metavar = '"OPTIONS"'
    elif option.part is not None:
        metavar = f"{{{','.join(option.part.words)}}}|MODULE:NAME"
    return tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=default_text)
