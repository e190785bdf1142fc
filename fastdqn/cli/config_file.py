"""Files of options: `--config FILE` starts from a config.json, or changes options of a preset."""

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastdqn.cli.parser import groups
from fastdqn.config.option import options_of
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
    if not files[0][0]:
        return default, rest, ["config is empty: name a file, --config options.toml"]
    try:
        config = read_config_file(Path(files[0][0]), default)
    except ConfigError as error:
        return default, rest, error.lines
    if name is not None and name not in PRESETS:  # an id on the command line wins
        config = config.replace(env_id=default.env_id)
    return config, rest, []


def words_of(config: Config, default: Config) -> list[str]:
    """Returns the options in which a config differs from a default, as words of a command line.

    Without the seed, the run folder and the label of a preset.
    """
    options, words = options_of(Config), []
    for field in fields(Config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name) or field.name in ("seed", "run_dir", "preset"):
            continue
        flag = field.name.replace("_", "-")
        if options[field.name].hint is bool:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            words += [f"--{flag}", *(f"{name}={given!r}" for name, given in value.items())]
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return words


def named_in_file(args: Sequence[str]) -> set[str]:
    """Returns the options that the file of --config names.

    The config.json of a run counts as naming none: it holds every option, given or not.
    """
    words = [word for group in groups(args) for word in _file_of(group)]
    if len(words) != 1:
        return set()
    try:
        path = Path(words[0])
        given = _parsed(path, _text_of(path))
        return set() if _is_of_a_run(path, given) else set(current_names(given, False))
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

    The config.json or requested.json of a run names every option: all are taken, but for its run
    folder. A .toml file, or a shorter JSON file, changes the options that it names.

    Raises:
        ConfigError: The file cannot be read, or an option is invalid. Its lines name the file.
    """
    if path.is_dir():
        raise ConfigError([_folder_problem(path)])
    try:
        text = _text_of(path)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    try:
        given = _parsed(path, text)
        if _is_of_a_run(path, given):
            return Config.from_json(text).replace(run_dir=None)
        return _changed(default, given)
    except ConfigError as error:
        raise ConfigError([f"{path}: {line}" for line in error.lines]) from None


def _folder_problem(path: Path) -> str:
    """Returns what to give in place of a folder: the config.json of a run in it."""
    from fastdqn.study.study_folder import names_no_run

    if (path / "config.json").is_file():
        return f"config is {str(path)!r}, a run: use --config {path / 'config.json'}"
    other = names_no_run(str(path)) or "a folder, and not a file"
    return f"config is {str(path)!r}, {other}. Use --config RUN/config.json"


def _text_of(path: Path) -> str:
    """Returns the content of a file without a byte order mark. Raises ValueError."""
    return read_text(path, follow=True).removeprefix("\ufeff")


def _parsed(path: Path, text: str) -> dict[str, Any]:
    """Returns the options in a text, with underscores in their names. Raises ConfigError."""
    is_toml = path.suffix.lower() == ".toml"
    try:
        given = tomllib.loads(text) if is_toml else json.loads(text, object_pairs_hook=_once)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        kind = "TOML" if is_toml else "JSON"
        raise ConfigError([f"it is not {kind}: {' '.join(str(error).split())}"]) from None
    if not isinstance(given, dict):
        raise ConfigError(["it is not an object of options"])
    return _once([(name.replace("-", "_"), value) for name, value in given.items()])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns names with their values. Raises ConfigError if a name is there twice."""
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise ConfigError([f"{name!r:.60} is there more than once: leave one out"])
    return dict(pairs)


# Options that each config.json of a run has named since the first version.
_OF_EVERY_RUN = {
    "env_id", "preset", "seed", "num_envs", "total_timesteps", "buffer_size", "batch_size",
    "gamma", "learning_starts", "train_frequency", "run_dir",
}  # fmt: skip


def _is_of_a_run(path: Path, given: dict[str, Any]) -> bool:
    """Returns whether a file is the config.json of a run, of any version."""
    return path.suffix.lower() != ".toml" and given.keys() >= _OF_EVERY_RUN


def _changed(default: Config, given: dict[str, Any]) -> Config:
    values = current_names(given)
    known = [field.name for field in fields(Config)]
    if unknown := [name for name in values if name not in known]:
        raise ConfigError([unknown_name("option", name, known) for name in unknown])
    config = default.replace(**values)
    if lines := config.type_problems():
        raise ConfigError(lines)
    return config
