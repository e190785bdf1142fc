"""Shell completion: `fastdqn completion bash|zsh|tcsh` prints a script, made by shtab."""

import argparse
import dataclasses
import typing
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, Literal

from fastdqn.cli.docs import TOPICS, DocsOptions
from fastdqn.cli.options import (
    BenchOptions,
    EvalOptions,
    ProfileOptions,
    ResumeOptions,
    TrainOptions,
)
from fastdqn.config.option import Option, options_of, texts
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import ConfigError, unknown_name

# Options that are texts and name files or folders.
_PATHS = ("run_dir", "init_weights", "from_run", "prefill")
SHELLS = ("bash", "zsh", "tcsh")


def completion(args: list[str], commands: Iterable[str], parts: Iterable[str]) -> str:
    """Returns the script for a shell. Raises ConfigError if there is none for it.

    commands  names of all commands
    parts     what `fastdqn bench` measures
    """
    if len(args) != 1:
        raise ConfigError([f"completion takes one shell: {', '.join(SHELLS)}"])
    if args[0] not in SHELLS:
        raise ConfigError([unknown_name("shell", args[0], SHELLS)])
    import shtab

    return shtab.complete(_parser(commands, parts), shell=args[0])


def _parser(commands: Iterable[str], parts: Iterable[str]) -> argparse.ArgumentParser:
    """A parser of all commands, which shtab reads; it parses nothing."""
    root = argparse.ArgumentParser(prog="fastdqn")
    root.add_argument("--version", action="store_true", help="Print the version.")
    by_name, known = root.add_subparsers(), _options()
    for name in commands:
        command = by_name.add_parser(name, help="")
        for subject in _subjects(name, tuple(parts)):
            _add(command, f"{name} argument", **subject)
        if name in known:
            _add_options(command, known[name])
    return root


def _subjects(command: str, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """The arguments before a command's options, as settings of argparse."""
    presets = {"choices": tuple(PRESETS)}
    return {
        "train": [presets], "sweep": [presets], "tabular": [presets], "profile": [presets],
        "bench": [{"choices": parts}, presets], "completion": [{"choices": SHELLS}],
        "docs": [{"choices": TOPICS}], "presets": [], "envs": [],
        "plot": [{"nargs": "+", "type": Path}], "report": [{"nargs": "+", "type": Path}],
    }.get(command, [{"type": Path}])  # fmt: skip


def _options() -> dict[str, type]:
    """The options of each command that has any."""
    from fastdqn.cli.export import ExportOptions
    from fastdqn.cli.plot_and_report import PlotOptions, ReportOptions
    from fastdqn.cli.sweep import SweepOptions
    from fastdqn.cli.tabular import TabularOptions
    from fastdqn.cli.video import VideoOptions

    return {
        "train": TrainOptions, "resume": ResumeOptions, "eval": EvalOptions, "bench": BenchOptions,
        "profile": ProfileOptions, "plot": PlotOptions, "report": ReportOptions,
        "export": ExportOptions, "video": VideoOptions, "tabular": TabularOptions,
        "sweep": SweepOptions, "docs": DocsOptions,
    }  # fmt: skip


def _add_options(
    command: argparse.ArgumentParser, record: type, shown: Container[str] | None = None
) -> None:
    """Adds the options of a dataclass. shown: names of those that the command takes. None: all."""
    helps = texts(record)
    for name, option in options_of(record).items():
        if shown is not None and name not in shown:
            continue
        flag, text = "--" + name.replace("_", "-"), helps.get(name, "").replace("%", "%%")
        hint = option.hint
        if dataclasses.is_dataclass(hint):  # the config
            shown = getattr(record, "shown", None)
            _add_options(command, typing.cast(type, hint), shown)
            continue
        if hint is bool:
            _add(command, flag, action="store_true", help=text)
            _add(command, "--no-" + flag[2:], action="store_true", help=text)
            continue
        several = typing.get_origin(hint) in (tuple, dict) and not option.repeated
        for each in (flag, *(["--" + option.flag] if option.flag else [])):
            _add(
                command, each, help=text, nargs="*" if several else None,
                choices=_choices(option) or None,
                type=Path if name in _PATHS or Path in typing.get_args(hint) else None,
            )  # fmt: skip


def _add(command: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    import shtab

    argument = command.add_argument(name, **settings)
    if settings.get("type") is Path:
        argument.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]


def _choices(option: Option) -> list[str]:
    """The registered words of a part, and those of _words()."""
    return list(option.part.words) if option.part else _words(option.hint)


def _words(hint: Any) -> list[str]:
    """The words of a Literal, and of bool | None, also within a tuple or beside None."""
    if typing.get_origin(hint) is Literal:
        return [str(word) for word in typing.get_args(hint)]
    if hint is bool:
        return ["True", "False"]
    return [word for inner in typing.get_args(hint) for word in _words(inner)]
