"""Files of options: `--config FILE` starts from a config.json or a TOML file."""

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastdqn.cli.parser import groups
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config, ConfigError, current_names, unknown_name
from fastdqn.files.atomic_write import read_text

_FLAGS = ("--config", "--config-file")


def with_file(
    name: str | None, default: Config, args: Sequence[str]
) -> tuple[Config, list[str], list[str]]:
    """Applies the options of --config FILE, if it is given, on top of a preset.

    Args:
        name: The preset or environment id that was given first, or None.
        default: Its options.
        args: The options of the command.

    Returns:
        The options that the command's own change, the other arguments, and error messages.
    """
    rest, files = [], []
    for group in groups(args):
        if names_file(group[:1]):
            files.append(_file_of(group))
        else:
            rest += group
    if not files:
        return default, rest, []
    if len(files) > 1 or len(files[0]) != 1:
        return default, rest, ["--config takes one file: --config options.toml"]
    try:
        config = read_config_file(Path(files[0][0]), default)
    except ConfigError as error:
        return default, rest, error.lines
    if name is not None and name not in PRESETS:  # an id on the command line wins
        config = config.replace(env_id=default.env_id)
    return config, rest, []


def named_in_file(args: Sequence[str]) -> set[str]:
    """Returns the options that the TOML file of --config names.

    The config.json of a run counts as naming none: it holds every option, given or not.
    """
    words = [word for group in groups(args) for word in _file_of(group)]
    path = Path(words[0]) if len(words) == 1 else Path()
    if path.suffix.lower() != ".toml":
        return set()
    try:
        given = tomllib.loads(read_text(path, follow=True))
        return set(current_names({name.replace("-", "_"): given[name] for name in given}, False))
    except (ValueError, RecursionError):  # with_file() reports them
        return set()


def names_file(args: Sequence[str]) -> bool:
    """Returns whether arguments contain --config."""
    return any(word.partition("=")[0] in _FLAGS for word in args)


def _file_of(group: Sequence[str]) -> list[str]:
    """Returns the values of an option if it is --config."""
    flag, equals, attached = group[0].partition("=")
    if flag not in _FLAGS:
        return []
    return [attached, *group[1:]] if equals else list(group[1:])


def read_config_file(path: Path, default: Config) -> Config:
    """Returns the options of a file.

    A .toml file changes the options that it names. Any other is the config.json or requested.json
    of a run, whose options are all taken, but for its run folder.

    Raises:
        ConfigError: The file cannot be read, or an option is invalid. Its lines name the file.
    """
    try:
        text = read_text(path, follow=True)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    try:
        if path.suffix.lower() != ".toml":
            return Config.from_json(text).replace(run_dir=None)
        return _changed(default, tomllib.loads(text))
    except ConfigError as error:
        lines = [line.removeprefix("config.json ") for line in error.lines]
        raise ConfigError([f"{path}: {line}" for line in lines]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path} is not TOML: {' '.join(str(error).split())}"]) from None


def _changed(default: Config, given: dict[str, Any]) -> Config:
    values = current_names({name.replace("-", "_"): value for name, value in given.items()})
    known = [field.name for field in fields(Config)]
    if unknown := [name for name in values if name not in known]:
        raise ConfigError([unknown_name("option", name, known) for name in unknown])
    config = default.replace(**values)
    if lines := config.type_problems():
        raise ConfigError(lines)
    return config
