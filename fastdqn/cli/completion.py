"""Completion: `fastdqn completion bash|zsh`, a script that completes commands and options."""

import dataclasses
import typing
from typing import Any, Literal

from fastdqn.cli.docs import TOPICS, DocsOptions
from fastdqn.cli.options import (
    BenchOptions,
    EvalOptions,
    ProfileOptions,
    ResumeOptions,
    TrainOptions,
)
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import ConfigError, unknown_name

SHELLS = ("bash", "zsh")
# Commands whose first word may be a preset.
_TRAINED = ("train", "sweep", "tabular", "profile")
_SCRIPT = """\
_fastdqn() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local command=${{COMP_WORDS[1]}}
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word")); return
  fi
  case "$command $before" in
{values}
  esac
  if [ "$COMP_CWORD" -eq 2 ] && [ "${{word#-}}" = "$word" ]; then
    case $command in
{subjects}
    esac
  fi
  case $command in
{flags}
  esac
}}
complete -o bashdefault -o default -F _fastdqn fastdqn"""


def completion(args: list[str], commands: typing.Iterable[str]) -> str:
    """The script for a shell. Raises ConfigError where there is none for it."""
    if len(args) != 1:
        raise ConfigError([f"completion takes one shell: {' or '.join(SHELLS)}"])
    if args[0] not in SHELLS:
        raise ConfigError([unknown_name("shell", args[0], SHELLS)])
    known = _options()
    of_values = {
        f"{command} {flag}": words
        for command, flags in known.items()
        for flag, words in flags.items()
        if words
    }
    script = _SCRIPT.format(
        commands=" ".join(commands),
        values=_cases(of_values),
        subjects=_cases({name: list(PRESETS) for name in _TRAINED} | {"docs": list(TOPICS)}),
        flags=_cases({command: list(flags) for command, flags in known.items()}),
    )
    return "autoload -U +X bashcompinit && bashcompinit\n" + script if args[0] == "zsh" else script


def _cases(words: typing.Mapping[str, typing.Sequence[str]]) -> str:
    """Branches of a shell's case, each of which replies with words."""
    reply = 'COMPREPLY=($(compgen -W "{}" -- "$word")); return'
    return "\n".join(f'    "{case}") {reply.format(" ".join(w))};;' for case, w in words.items())


def _options() -> dict[str, dict[str, list[str]]]:
    """Flags of each command, with the words that each may have, if they are few."""
    from fastdqn.cli.export import ExportOptions
    from fastdqn.cli.report import PlotOptions, ReportOptions
    from fastdqn.cli.sweep import SweepOptions
    from fastdqn.cli.tabular import TabularOptions
    from fastdqn.cli.video import VideoOptions

    known = {
        "train": TrainOptions, "resume": ResumeOptions, "eval": EvalOptions, "bench": BenchOptions,
        "profile": ProfileOptions, "plot": PlotOptions, "report": ReportOptions,
        "export": ExportOptions, "video": VideoOptions, "tabular": TabularOptions,
        "sweep": SweepOptions, "docs": DocsOptions,
    }  # fmt: skip
    return {command: _flags(record) for command, record in known.items()}


def _flags(record: type) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, hint in typing.get_type_hints(record).items():
        if dataclasses.is_dataclass(hint):  # the config
            found |= _flags(typing.cast(type, hint))
        else:
            flag = "--" + name.replace("_", "-")
            found[flag] = _words(hint)
            if hint is bool:
                found["--no-" + flag[2:]] = []
    return found


def _words(hint: Any) -> list[str]:
    """The words of a Literal, also within a tuple or beside None."""
    if typing.get_origin(hint) is Literal:
        return [str(word) for word in typing.get_args(hint)]
    return [word for inner in typing.get_args(hint) for word in _words(inner)]
