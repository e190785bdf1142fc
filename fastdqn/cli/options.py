"""Words: the options of each command, as they are given behind its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fastdqn.config.schema import Config


@dataclass(frozen=True)
class TrainOptions:
    config: tyro.conf.OmitArgPrefixes[Config]
    resume: Literal["never", "auto"] = "never"
    """auto: go on with the run in --run-dir from its last checkpoint, or begin it where there is
    none. A finished run is left as it is."""
    dry_run: bool = False
    """Print the resolved options, the memory they need and the replay ratio, and stop."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclass(frozen=True)
class ResumeOptions:
    total_timesteps: int | None = None
    """New total of steps; None: the one that the run had. Schedules keep their horizon. The next
    checkpoint remembers it: give it again to a run that was killed before that."""
    checkpoint: str | None = None
    """Name of a checkpoint; None: the latest."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclass(frozen=True)
class EvalOptions:
    episodes: int = 100
    """Episodes, run in parallel."""
    weights: Literal["best", "last"] = "best"
    """best: by evaluation while training, else the last; or last."""
    seed: int = 0
    """Of the first episode; never one that training used."""
    max_steps: int | None = None
    """Cap on an episode; None: the environment's own limit, else 27,000."""
    env_id: str | None = None
    """Environment; None: the one in the run's config.json."""
    max_step_seconds: float | None = Config.max_step_seconds
    """Seconds after which making environments or a step has failed; None: never."""
    render: bool = False
    """Show the episodes in a window, one after another."""
    json: bool = False
    """Print the result as JSON alone."""
    out: Path | None = None
    """Also write the JSON to this file."""


@dataclass(frozen=True)
class BenchOptions:
    config: tyro.conf.OmitArgPrefixes[Config]
    out: Path | None = None
    """File for the figures: one JSON object a line."""
    against: Literal["sb3"] | None = None
    """Train by turns with another library (extra peers): sb3 is Stable-Baselines3."""
    seconds: float = 0.15
    """Of one repeat; a whole loop takes four times as long."""
    repeats: int = 5
    """Of each figure; median, least and most are told."""


@dataclass(frozen=True)
class ProfileOptions:
    config: tyro.conf.OmitArgPrefixes[Config]
    out: Path | None = None
    """Folder for trace.json (Perfetto, chrome://tracing) and profile.json."""
    what: Literal["learn", "act", "train"] = "learn"
    """learn: updates; act: policy calls; train: turns of the whole loop."""
    updates: int = 50
    """Calls that are recorded, after burn-in."""
