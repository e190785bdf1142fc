"""The sweep command: searches for the settings with the highest return, with Optuna."""

import contextlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdqn import api
from fastdqn.builders import preflight
from fastdqn.builders.preflight import preview
from fastdqn.cli import parser
from fastdqn.cli.sweep_storage import is_filled, open_trials, temporary_runs_folder, writing
from fastdqn.config.schema import Config, ConfigError, unknown_name
from fastdqn.envs import NonFiniteError
from fastdqn.files.run_folder import name_in_files, working_folder
from fastdqn.training.loop import DivergedError

# Settings that decide how fast DQN learns, and their choices, around the values of published agents
# on classic control. A pair of floats is a log-uniform range.
SPACE: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-4, 1e-2),
    "batch_size": (32, 64, 128, 256),
    "train_frequency": (1, 2, 4, 8, 16),
    "target_network_frequency": (250, 500, 1_000, 2_000, 5_000),
    "gamma": (0.98, 0.99, 0.995, 0.999),
    "n_steps": (1, 3, 5),
    "exploration_fraction": (0.05, 0.1, 0.2, 0.4),
    "exploration_final_eps": (0.01, 0.05, 0.1),
    "hidden_sizes": ("64 64", "128 128", "256 256"),
}
# Changes when old trials can no longer be compared with new ones.
VERSION = 1
# Seed of the first run. Smaller seeds remain unused, for evaluating the result.
FIRST_SEED = 1_001
# Trials before pruning by the median starts. Not tuned.
_UNCUT = 5
# Divergence counts as a failed trial, and the search continues.
_BAD_SETTING = (DivergedError, NonFiniteError)


@dataclass(frozen=True)
class SweepOptions:
    config: Config
    trials: int = 20
    """Number of settings to try, including those already in the file."""
    seeds: int = 2
    """Runs per setting, with seeds from --seed. A setting below the median stops early."""
    search: tuple[str, ...] = ()
    """Options to search. None: every searchable option that is not given."""
    out: Path | None = None
    """File of the trials, which the same command continues. None: sweeps/ENV__PRESET.journal."""
    quiet: bool = False
    """Print only the result."""


def sweep(name: str | None, args: list[str]) -> None:
    """Runs `fastdqn sweep`: searches, and prints the best setting as a command.

    Args:
        name: Preset or environment id. None for --help alone.
        args: The options.

    Raises:
        ConfigError: All errors in the options, a line each.
        KeyboardInterrupt: The sweep was interrupted. The same command continues it.
    """
    base = working_folder()  # an environment may change the working directory
    default = SweepOptions(api.preset(name or "cartpole").replace(seed=FIRST_SEED))
    chosen, lines = parser.parse(args, default, f"fastdqn sweep {name or 'PRESET|ENV_ID'}")
    given = parser.given(args)
    lines += _mistakes(chosen, given)
    lines += preflight.check(chosen.config, mistaken=bool(lines))
    if lines:
        raise ConfigError(lines)
    names = chosen.search or [option for option in SPACE if option not in given]
    own = _settings(preview(chosen.config).config, names)
    searched = {option: _with(SPACE[option], own[option]) for option in names}
    path, study = _open(base, chosen, _identity(chosen, searched), own)
    with ExitStack() as held:
        with writing(path):
            folder = held.enter_context(temporary_runs_folder(path))
        while line := _next(path, study, chosen, searched, folder):
            if not chosen.quiet:
                print(line, flush=True)
    print(_found(study, [name or "", *_kept(given)], path))


def _mistakes(chosen: SweepOptions, given: dict[str, list[str]]) -> list[str]:
    unknown = [name for name in chosen.search if name not in SPACE]
    lines = [unknown_name("option to search", name, SPACE) for name in unknown]
    for name in ("trials", "seeds"):
        if getattr(chosen, name) < 1:
            lines.append(f"{name} is {getattr(chosen, name)}: it must be at least 1")
    last = chosen.config.replace(seed=chosen.config.seed + chosen.seeds - 1)
    lines += [line for line in last.problems() if line.startswith("seed is ")]
    if both := [name for name in chosen.search if name in given]:
        lines.append(f"{' and '.join(both)} cannot be both given and searched")
    if not chosen.search and given.keys() >= SPACE.keys():
        lines.append("every searchable option is given: there is nothing to search")
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


def _identity(chosen: SweepOptions, searched: dict[str, tuple]) -> dict[str, Any]:
    """Returns what all trials of a file share, as read back from JSON."""
    fixed = json.loads(chosen.config.to_json())
    fixed = {name: value for name, value in fixed.items() if name not in searched}
    values = {"version": VERSION, "seeds": chosen.seeds, "searched": searched, "config": fixed}
    return json.loads(json.dumps(values))


def _settings(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """Returns options in the form of a sweep: plain numbers, and layer sizes as a string."""
    values = {name: getattr(config, name) for name in names}
    if "train_frequency" in values:
        values["train_frequency"] = json.loads(config.to_json())["train_frequency"]
    if "hidden_sizes" in values:
        values["hidden_sizes"] = " ".join(map(str, config.hidden_sizes or ()))
    return values


def _with(choices: tuple, own: Any) -> tuple:
    """Returns choices that include the current setting."""
    if _is_range(choices):
        return min(choices[0], own), max(choices[1], own)
    return choices if own in choices else (*choices, own)


def _is_range(choices: tuple) -> bool:
    return len(choices) == 2 and all(isinstance(end, float) for end in choices)


def _finished(study) -> list:
    """Returns the finished trials, without interrupted ones."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def _next(path: Path, study, chosen: SweepOptions, searched: dict[str, tuple], folder: Path) -> str:
    """Runs the next trial. Returns a line about it, or '' if enough were run."""
    with writing(path):
        if len(_finished(study)) >= chosen.trials:
            return ""
        result = _try(study, chosen, searched, folder)
        return f"{len(_finished(study)):3} of {chosen.trials}  {result}"


def _try(study, chosen: SweepOptions, searched: dict[str, tuple], folder: Path) -> str:
    """Runs one setting with each seed. Returns a line about it."""
    import optuna

    # Seeded by the number of trials, so that a continued sweep and a second process draw new ones.
    seed = (chosen.config.seed + len(study.trials)) % (
        1 << 32
    )  # the limit of NumPy's legacy generator
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNCUT)
    trial = study.ask()
    setting = {
        name: trial.suggest_float(name, *choices, log=True)
        if _is_range(choices)
        else trial.suggest_categorical(name, choices)
        for name, choices in searched.items()
    }
    config, returns, cut = chosen.config.replace(**_values(setting)), [], ""
    try:
        for run in range(chosen.seeds):
            returns.append(_run(config.replace(seed=config.seed + run), folder))
            trial.report(sum(returns) / len(returns), run)
            if len(returns) < chosen.seeds and trial.should_prune():
                cut = "cut"
                break
    except _BAD_SETTING as error:
        cut = " ".join(str(error).split())
    state = optuna.trial.TrialState
    if cut:
        study.tell(trial, state=state.PRUNED if returns else state.FAIL)
    else:
        study.tell(trial, sum(returns) / len(returns))
    texts = "  ".join(f"{value:.6g}" for value in returns)
    return f"returns {texts or 'none'}{cut and f' ({cut})'}  {_flags(setting)}"


def _values(setting: dict[str, Any]) -> dict[str, Any]:
    """Returns a setting as options of Config, rounded to the three digits that are printed."""
    values = {n: float(f"{v:.3g}") if isinstance(v, float) else v for n, v in setting.items()}
    if sizes := setting.get("hidden_sizes"):
        values["hidden_sizes"] = tuple(map(int, sizes.split()))
    return values


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


def _found(study, words: list[str], path: Path) -> str:
    """Returns the best setting as the command that trains with it."""
    # Pruned trials have a value too, of fewer seeds.
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not complete:
        return f"every setting diverged\ntrials: {path}"
    best = max(complete, key=lambda trial: trial.value)
    return (
        f"best of {len(_finished(study))}: trial {best.number}, mean return {best.value:.6g}\n"
        f"  fastdqn train {shlex.join(words)} {_flags(best.params)}\ntrials: {path}"
    )


def _flags(setting: dict[str, Any]) -> str:
    """Returns a setting as command line options."""
    return " ".join(
        f"--{name.replace('_', '-')} {value:.3g}"
        if isinstance(value, float)
        else f"--{name.replace('_', '-')} {value}"
        for name, value in setting.items()
    )
