"""Options of each command, as dataclasses that tyro parses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from fastdqn.config.option import Flag, Repeated
from fastdqn.config.schema import CHANGEABLE, Config


@dataclass(frozen=True)
class OptionsWithFile:
    """Options that a file of options can set, of the commands that make a run of their own."""

    config: Config
    config_file: Annotated[Path | None, Flag("config")] = None
    """Options from a file, which those on the command line override: a TOML file of options, or the
    config.json of a run."""


@dataclass(frozen=True)
class TrainOptions(OptionsWithFile):
    resume: Literal["never", "auto"] = "never"
    """auto: continue the run in --run-dir from its last checkpoint, or start it if there is none. A
    finished run is left unchanged."""
    dry_run: bool = False
    """Print the resolved options, memory needs and replay ratio, and stop. With --seeds: the list
    of runs."""
    seeds: tuple[str, ...] = ()
    """Train a run for each seed, such as 1-5 or 1 3 7-9, as a study in --run-dir (None:
    studies/PRESET). The same command continues it."""
    vs: Annotated[tuple[str, ...], Repeated()] = ()
    """With --seeds: options of another variant, such as "--n-steps 3". Repeat it for more."""
    jobs: int | None = None
    """With --seeds: runs in parallel, which divide the usable cores. None: as many as there are
    cores or runs. With --ray: as many as the cluster holds."""
    ray: str | None = None
    """With --seeds: train on a Ray cluster (extra ray). local: start Ray here. auto: the cluster
    found by Ray. Or HOST:PORT."""
    ray_cpus: int = 1
    """With --ray: cores and threads of each run."""
    ray_gpus: float = 0.0
    """With --ray: GPUs of each run. Runs may share one: 0.25 is a quarter of a GPU."""
    quiet: bool = False
    """Print only errors, and with --seeds the result."""


@dataclass(frozen=True)
class ResumeOptions:
    """Options of the config that are not in `shown` cannot change."""

    config: Config
    shown: ClassVar[tuple[str, ...]] = ("total_timesteps", *CHANGEABLE)
    default_text: ClassVar[str] = "(default: as in the run)"
    checkpoint: str | None = None
    """Name of a checkpoint. None: the latest."""
    quiet: bool = False
    """Print only errors."""


@dataclass(frozen=True)
class EvalOptions:
    episodes: int = 100
    """Number of episodes, in parallel."""
    weights: Literal["best", "last"] = "best"
    """best: the best in evaluation, or the last if there was none. last: the last."""
    seed: int = 0
    """Seed of the first episode. It never coincides with a seed of training."""
    max_steps: int | None = None
    """Maximum steps of an episode. None: the run's --eval-max-steps, else the environment's limit,
    else 27,000."""
    env_id: str | None = None
    """Environment id. None: the one in the run's config.json."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, beside or in place of those of the run."""
    wrapper: tuple[str, ...] | None = None
    """Wrappers of the environment, the innermost first. None: those of the run. --no-wrapper: none,
    such as without one that shapes rewards."""
    info_keys: tuple[str, ...] | None = None
    """Keys of info whose means are printed. None: the --info-keys of the run."""
    max_step_seconds: float | None = Config.max_step_seconds
    """Timeout in seconds of a step and of making environments. None: no timeout."""
    render: bool = False
    """Show the episodes in a window, one after another."""
    json: bool = False
    """Print only the result, as JSON."""
    out: Path | None = None
    """Also write the JSON to this file."""


@dataclass(frozen=True)
class BenchOptions(OptionsWithFile):
    """Of the options in `several`, each value is measured."""

    several: ClassVar[tuple[str, ...]] = ("num_envs",)
    out: Path | None = None
    """File to which the results are appended, as JSON lines."""
    format: Literal["table", "csv", "markdown", "json"] = "table"
    """Format of the results on standard output."""
    against: Literal["sb3"] | None = None
    """Compare training with another library (extra sb3). sb3: Stable-Baselines3."""
    seconds: float = 0.15
    """Seconds per repeat. A repeat of the whole loop takes four times as long."""
    repeats: int = 5
    """Repeats per result, which reports median, minimum and maximum."""


@dataclass(frozen=True)
class ProfileOptions(OptionsWithFile):
    out: Path | None = None
    """Required: output folder of trace.json (Perfetto, chrome://tracing) and profile.json."""
    what: Literal["learn", "act", "train"] = "learn"
    """learn: updates. act: policy calls. train: iterations of the training loop."""
    updates: int = 50
    """Number of recorded updates, policy calls or iterations, after warm-up."""
    shapes: bool = False
    """Tell operators with different shapes of inputs apart."""


@dataclass(frozen=True)
class SweepOptions(OptionsWithFile):
    trials: int = 20
    """Number of settings to try, including those already in the file."""
    seeds: int = 2
    """Runs per setting, with seeds from --seed. A setting below the median stops early."""
    objective: Literal["best", "curve", "training", "steps", "episodes"] = "best"
    """best: return of the best weights. curve: mean of all evaluations. training: mean return of
    the last tenth of training. steps, episodes: their number until --stop-at-return."""
    search: tuple[str, ...] = ()
    """Options to search: NAME=LOW..HIGH, NAME=LOW..HIGH:log (log-uniform), NAME=A,B,C, or NAME
    with its default values. None: all options with default values that are not given."""
    out: Path | None = None
    """File of the trials, which the same command continues. None: sweeps/ENV__PRESET.journal."""
    ray: str | None = None
    """Train on a Ray cluster (extra ray). local: start Ray here. auto: the cluster found by Ray. Or
    HOST:PORT."""
    ray_cpus: int = 1
    """With --ray: cores and threads of each run."""
    ray_gpus: float = 0.0
    """With --ray: GPUs of each run. Runs may share one: 0.25 is a quarter of a GPU."""
    jobs: int | None = None
    """With --ray: trials at a time. None: as many as the cluster holds."""
    quiet: bool = False
    """Print only the result."""
