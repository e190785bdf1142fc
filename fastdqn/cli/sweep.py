"""The sweep command: searches for the settings with the highest return, with Optuna."""

import contextlib
import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdqn import api
from fastdqn.builders import preflight
from fastdqn.builders.preflight import preview
from fastdqn.cli import parser
from fastdqn.cli.config_file import named_in_file, with_file
from fastdqn.cli.options import OptionsWithFile
from fastdqn.cli.search_space import (
    SPACE,
    Space,
    flags,
    option_values,
    parse_search,
    plain,
    value_problems,
)
from fastdqn.cli.sweep_storage import is_filled, open_trials, temporary_runs_folder, writing
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import NonFiniteError
from fastdqn.files.run_folder import name_in_files, working_folder
from fastdqn.training.loop import DivergedError

# Changes when old trials can no longer be compared with new ones.
VERSION = 1
# Seed of the first run. Smaller seeds remain unused, for evaluating the result.
FIRST_SEED = 1_001
# Trials before pruning by the median starts. Not tuned.
_UNCUT = 5
# Divergence counts as a failed trial, and the search continues.
_BAD_SETTING = (DivergedError, NonFiniteError)


@dataclass(frozen=True)
class SweepOptions(OptionsWithFile):
    trials: int = 20
    """Number of settings to try, including those already in the file."""
    seeds: int = 2
    """Runs per setting, with seeds from --seed. A setting below the median stops early."""
    search: tuple[str, ...] = ()
    """Options to search: NAME=LOW..HIGH, NAME=LOW..HIGH:log (log-uniform), NAME=A,B,C, or NAME
    with its default values. None: all options with default values that are not given."""
    out: Path | None = None
    """File of the trials, which the same command continues. None: sweeps/ENV__PRESET.journal."""
    quiet: bool = False
    """Print only the result."""


def sweep(name: str | None, args: list[str]) -> None:
    """Runs `fastdqn sweep`: searches, and prints the best setting as a command.

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
    path, study = _open(base, chosen, _identity(chosen, searched), own)
    with ExitStack() as held:
        with writing(path):
            folder = held.enter_context(temporary_runs_folder(path))
        while line := _next(path, study, chosen, searched, folder):
            if not chosen.quiet:
                print(line, flush=True)
    print(_found(study, [*([name] if name else []), *_kept(parser.given(args))], searched, path))


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
    if chosen.config.eval_frequency == 0:
        lines.append("eval_frequency is 0: a sweep compares evaluations")
    if chosen.config.run_dir is not None:
        lines.append("run_dir is set: runs of a sweep leave no folder. Use --out for its file")
    return lines


def _open(
    base: Path, chosen: SweepOptions, identity: dict[str, Any], own: dict[str, Any]
) -> tuple[Path, Any]:
    """Opens the file of a sweep. Returns its path and study."""
    if chosen.out is not None:
        return base / chosen.out, open_trials(base / chosen.out, identity, own)
    path = base / "sweeps" / f"{name_in_files(chosen.config)}.journal"
    earlier = base / "sweeps" / f"{chosen.config.preset}.journal"  # its name in earlier versions
    if not os.path.lexists(path) and is_filled(earlier):
        with contextlib.suppress(ConfigError):  # it is of another sweep
            study = open_trials(earlier, identity, own)
            if not chosen.quiet:
                print(f"continuing {earlier}, which a new sweep would name {path.name}")
            return earlier, study
    return path, open_trials(path, identity, own)


def _within(config: Config, spaces: Mapping[str, Space | None]) -> Config:
    """Returns a config whose searched options lie in the given spaces. None is kept."""
    values = {
        name: space.nearest(getattr(config, name))
        for name, space in spaces.items()
        if space is not None and getattr(config, name) is not None
    }
    return config.replace(**option_values(values))


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
    return json.loads(json.dumps(values))


def _finished(study) -> list:
    """Returns the finished trials, without interrupted ones."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def _next(
    path: Path, study, chosen: SweepOptions, searched: Mapping[str, Space], folder: Path
) -> str:
    """Runs the next trial. Returns a line about it, or '' if enough were run."""
    with writing(path):
        if len(_finished(study)) >= chosen.trials:
            return ""
        result = _try(study, chosen, searched, folder)
        return f"{len(_finished(study)):3} of {chosen.trials}  {result}"


def _try(study, chosen: SweepOptions, searched: Mapping[str, Space], folder: Path) -> str:
    """Runs one setting with each seed. Returns a line about it."""
    import optuna

    # Seeded by the number of trials, so that a continued sweep and a second process draw new ones.
    seed = (chosen.config.seed + len(study.trials)) % (
        1 << 32
    )  # the limit of NumPy's legacy generator
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNCUT)
    trial = study.ask()
    setting = {name: space.suggest(trial, name) for name, space in searched.items()}
    returns, cut = _returns(trial, chosen, option_values(setting), folder)
    state = optuna.trial.TrialState
    if cut:
        study.tell(trial, state=state.PRUNED if returns else state.FAIL)
    else:
        study.tell(trial, sum(returns) / len(returns))
    texts = "  ".join(f"{value:.6g}" for value in returns)
    head = "no return" if not returns else "mean return" + "s" * (len(returns) > 1)
    return f"{head} {texts}".rstrip() + f"{cut and f' ({cut})'}  {flags(setting)}"


def _returns(
    trial, chosen: SweepOptions, setting: dict[str, Any], folder: Path
) -> tuple[list[float], str]:
    """Trains with each seed. Returns (a return of each run, why the others were left out or '')."""
    config, returns = chosen.config.replace(**setting), list[float]()
    if lines := config.problems():  # values of several options that exclude each other
        return returns, lines[0]
    try:
        for run in range(chosen.seeds):
            returns.append(_run(config.replace(seed=config.seed + run), folder))
            trial.report(sum(returns) / len(returns), run)
            if len(returns) < chosen.seeds and trial.should_prune():
                return returns, "cut"
    except ConfigError as error:  # found only when the run is built, such as its memory
        return returns, error.lines[0]
    except _BAD_SETTING as error:
        return returns, " ".join(str(error).split())
    return returns, ""


def _run(config: Config, place: Path) -> float:
    """Trains. Returns the mean return of the best weights on seeds unused so far."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        config = config.replace(
            run_dir=str(Path(folder, "run")), tensorboard=False, wandb=False,
            checkpoint_seconds=None, checkpoint_frequency=None, checkpoint_replay=False,
            final_evaluation=True,
        )  # fmt: skip
        summary = api.train(config).summary
    if summary["exit_reason"].endswith("interrupted"):
        raise KeyboardInterrupt
    return summary["eval"]["mean_return"]


def _kept(given: dict[str, list[str]]) -> list[str]:
    """Returns the given options that a training with the result needs too."""
    ours = {"trials", "seeds", "search", "out", "quiet", "no_quiet", "seed"}
    return [word for name, group in given.items() if name not in ours for word in group]


def _found(study, words: list[str], searched: Mapping[str, Space], path: Path) -> str:
    """Returns the best setting as the command that trains with it."""
    # Pruned trials have a value too, of fewer seeds.
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not complete:
        return f"every setting diverged or was invalid\ntrials: {path}"
    best = max(complete, key=lambda trial: trial.value)
    setting = {name: searched[name].rounded(value) for name, value in best.params.items()}
    return (
        f"best of {len(_finished(study))}: mean return {best.value:.6g}\n"
        f"  fastdqn train {shlex.join(words)} {flags(setting)}\ntrials: {path}"
    )
