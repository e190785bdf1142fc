"""The sweep command: searches for the settings with the best objective, with Optuna."""

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastdqn import api
from fastdqn.builders import preflight
from fastdqn.builders.preflight import preview
from fastdqn.cli import parser
from fastdqn.cli.config_file import named_in_file, with_file
from fastdqn.cli.options import SweepOptions
from fastdqn.cli.ray_options import connected_to, ray_problems
from fastdqn.cli.search_space import (
    SPACE,
    Space,
    flags,
    option_values,
    parse_search,
    plain,
    value_problems,
)
from fastdqn.cli.sweep_objective import OBJECTIVES
from fastdqn.cli.sweep_objective import problems as objective_problems
from fastdqn.cli.sweep_storage import (
    begin_with,
    best_trial,
    is_filled,
    open_trials,
    temporary_runs_folder,
    writing,
)
from fastdqn.cli.sweep_trial import Trial, finished, train_once
from fastdqn.config.schema import Config, ConfigError
from fastdqn.files.run_folder import name_in_files, working_folder

# Changes when old trials can no longer be compared with new ones.
VERSION = 1
# Seed of the first run. Smaller seeds remain unused, for evaluating the result.
FIRST_SEED = 1_001


def sweep(name: str | None, args: list[str]) -> int:
    """Runs `fastdqn sweep`: searches, and prints the best setting as a command.

    Returns the exit code, 1 if no setting has a result.

    Args:
        name: Preset or environment id. None for --help alone, or with --config.
        args: The options.

    Raises:
        ConfigError: All errors in the options, a line each.
        KeyboardInterrupt: The sweep was interrupted. The same command continues it.
    """
    base = working_folder()  # an environment may change the working directory
    chosen, spaces = _parse(name, args)
    start = _within(chosen.config, spaces)
    own, searched = _settled(start, spaces)
    with contextlib.nullcontext() if chosen.ray is None else connected_to(chosen.ray):
        path, study = _open(base, chosen, _identity(chosen, searched), own)
        with writing(path):
            begin_with(study, own, path)
        try:
            for line in _search(chosen)(path, chosen, study, searched):
                if not chosen.quiet:
                    print(line, flush=True)
        except KeyboardInterrupt:
            print(
                f"interrupted: {len(finished(study))} of {chosen.trials} trials have finished. The "
                f"same command continues {path}",
                flush=True,
            )
            raise
    words = [*([name] if name else []), *_kept(parser.given(args))]
    best = best_trial(study, path)
    print(_found(study, best, words, searched, path, chosen))
    return 0 if best is not None else 1


def _parse(name: str | None, args: list[str]) -> tuple[SweepOptions, dict[str, Space | None]]:
    """Returns the options and the spaces of the searched ones, None for default values.

    Raises ConfigError for all that is wrong with them.
    """
    default, words, lines = with_file(name, Config() if name is None else api.preset(name), args)
    given, in_file = parser.given(args), named_in_file(args)
    if "seed" not in in_file:
        default = default.replace(seed=FIRST_SEED)
    usage = f"fastdqn sweep {name or 'PRESET|ENV_ID'}"
    chosen, mistakes = parser.parse(words, SweepOptions(default), usage)
    spaces, problems = parse_search(chosen.search)
    if not chosen.search:
        spaces |= {option: None for option in SPACE if option not in given.keys() | in_file}
    lines += mistakes + problems + _mistakes(chosen, given, spaces)
    start = _within(chosen.config, spaces)
    lines += preflight.check(start, mistaken=bool(lines)) or value_problems(start, spaces)
    if lines:
        raise ConfigError(lines)
    return chosen, spaces


def _mistakes(
    chosen: SweepOptions, given: Mapping[str, list[str]], spaces: Mapping[str, Space | None]
) -> list[str]:
    lines = []
    for name in ("trials", "seeds"):
        if getattr(chosen, name) < 1:
            lines.append(f"{name} is {getattr(chosen, name)}: it must be at least 1")
    last = chosen.config.replace(seed=chosen.config.seed + chosen.seeds - 1)
    lines += [line for line in last.problems() if line.startswith("seed is ")]
    if both := [name for name in spaces if name in given or f"no_{name}" in given]:
        lines.append(f"{' and '.join(both)} cannot be both given and searched")
    if not (chosen.search or spaces):
        lines.append("every option with default values is given: name others with --search")
    lines += objective_problems(chosen.objective, chosen.config)
    if chosen.config.run_dir is not None:
        lines.append("run_dir is set: runs of a sweep leave no folder. Use --out for its file")
    if chosen.jobs is not None:
        if chosen.ray is None:
            lines.append(
                "--jobs needs a cluster: add --ray local, auto or HOST:PORT. Else start the same "
                "command several times: the processes share the trials"
            )
        if chosen.jobs < 1:
            lines.append(f"jobs is {chosen.jobs}: it must be at least 1")
    return lines + ray_problems(chosen.ray, chosen.ray_cpus, chosen.ray_gpus, given)


def _open(
    base: Path, chosen: SweepOptions, identity: dict[str, Any], own: dict[str, Any]
) -> tuple[Path, Any]:
    """Opens the file of a sweep. Returns its path and study."""
    if chosen.out is not None:
        return base / chosen.out, open_trials(base / chosen.out, identity, own)
    name = name_in_files(chosen.config)
    name += "" if chosen.objective == "best" else f"__{chosen.objective}"
    path = base / "sweeps" / f"{name}.journal"
    earlier = base / "sweeps" / f"{chosen.config.preset}.journal"  # its name in earlier versions
    if not os.path.lexists(path) and is_filled(earlier):
        with contextlib.suppress(ConfigError):  # it is of another sweep
            study = open_trials(earlier, identity, own)
            if not chosen.quiet:
                print(f"continuing {earlier}, which a new sweep would name {path.name}")
            return earlier, study
    return path, open_trials(path, identity, own)


def _within(config: Config, spaces: Mapping[str, Space | None]) -> Config:
    """Returns a config whose searched options lie in the given spaces.

    None, which often stands for a value that is resolved later, is kept where a run accepts it.
    """
    values = {
        name: space.nearest(getattr(config, name))
        for name, space in spaces.items()
        if space is not None
    }
    kept = {name: value for name, value in values.items() if getattr(config, name) is not None}
    with_none = config.replace(**option_values(kept))
    without = config.replace(**option_values(values))
    return without if with_none.problems() and not without.problems() else with_none


def _settled(
    start: Config, spaces: Mapping[str, Space | None]
) -> tuple[dict[str, Any], dict[str, Space]]:
    """Returns the first setting and all spaces. Default spaces are extended by the setting."""
    resolved, own, searched = preview(start).config, dict[str, Any](), dict[str, Space]()
    for name, space in spaces.items():
        value = getattr(resolved, name)
        if space is None:
            own[name], searched[name] = plain(value), SPACE[name].including(plain(value))
        else:
            asked = plain(getattr(start, name))
            kept = space.kind == "choices" and asked in space.values
            own[name], searched[name] = asked if kept else space.nearest(value), space
    return own, searched


def _identity(chosen: SweepOptions, searched: Mapping[str, Space]) -> dict[str, Any]:
    """Returns what all trials of a file share, as read back from JSON."""
    fixed = json.loads(chosen.config.to_json())
    fixed = {name: value for name, value in fixed.items() if name not in searched}
    spaces = {name: space.to_json() for name, space in searched.items()}
    values = {"version": VERSION, "seeds": chosen.seeds, "searched": spaces, "config": fixed}
    if chosen.objective != "best":  # which files of earlier versions do not name
        values["objective"] = chosen.objective
    return json.loads(json.dumps(values))


def _search(chosen: SweepOptions) -> Callable[..., Iterator[str]]:
    """Returns the generator that runs the trials and yields a line about each."""
    if chosen.ray is None:
        return _trials_here
    from fastdqn.cli.ray_sweep import trials_on_cluster

    return trials_on_cluster


def _trials_here(
    path: Path, chosen: SweepOptions, study, searched: Mapping[str, Space]
) -> Iterator[str]:
    """Runs one trial after another in this process."""
    with ExitStack() as held:
        with writing(path):
            folder = held.enter_context(temporary_runs_folder(path))
        while True:
            with writing(path):
                if len(finished(study)) >= chosen.trials:
                    return
                trial = Trial(study, chosen, searched)
                while (config := trial.next_run()) is not None:
                    trial.add(train_once(config, folder, chosen.objective))
                line = trial.end()
            yield line


def _kept(given: dict[str, list[str]]) -> list[str]:
    """Returns the given options that a training with the result needs too."""
    ours = {
        "trials", "seeds", "search", "out", "ray", "ray_cpus", "ray_gpus", "jobs", "quiet",
        "no_quiet", "seed", "objective", "final_evaluation",
    }  # fmt: skip
    return [word for name, group in given.items() if name not in ours for word in group]


def _found(
    study,
    best: Any,
    words: list[str],
    searched: Mapping[str, Space],
    path: Path,
    chosen: SweepOptions,
) -> str:
    """Returns the best setting as the command that trains with it."""
    if best is None:
        return f"no setting has a result: see the reasons above\ntrials: {path}"
    if best.params.keys() != searched.keys():
        raise ConfigError([f"{path}: trial {best.number} has other options: use another --out"])
    objective = OBJECTIVES[chosen.objective]
    setting = {name: searched[name].rounded(value) for name, value in best.params.items()}
    value = objective.text_of(best.value, chosen.config)
    return (
        f"best of {len(finished(study))}: {objective.text} {value}\n"
        f"  fastdqn train {shlex.join(words)} {flags(setting)}\ntrials: {path}"
    )
