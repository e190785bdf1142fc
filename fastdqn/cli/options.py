"""Options of each command, as dataclasses that tyro parses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdqn.config.schema import Config


@dataclass(frozen=True)
class TrainOptions:
    config: Config
    resume: Literal["never", "auto"] = "never"
    """auto: continue the run in --run-dir from its last checkpoint, or start it if there is none. A
    finished run is left unchanged."""
    dry_run: bool = False
    """Print the resolved options, memory needs and replay ratio, and stop."""
    quiet: bool = False
    """Print only errors."""


@dataclass(frozen=True)
class ResumeOptions:
    total_timesteps: int | None = None
    """New total of environment steps. None: unchanged. Schedules keep their horizon. The next
    checkpoint stores it, so repeat it if the run is killed before that."""
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
    """Maximum steps of an episode. None: the environment's own limit, else 27,000."""
    env_id: str | None = None
    """Environment id. None: the one in the run's config.json."""
    max_step_seconds: float | None = Config.max_step_seconds
    """Timeout in seconds of a step and of making environments. None: no timeout."""
    render: bool = False
    """Show the episodes in a window, one after another."""
    json: bool = False
    """Print only the result, as JSON."""
    out: Path | None = None
    """Also write the JSON to this file."""


@dataclass(frozen=True)
class BenchOptions:
    config: Config
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
class ProfileOptions:
    config: Config
    out: Path | None = None
    """Output folder of trace.json (Perfetto, chrome://tracing) and profile.json."""
    what: Literal["learn", "act", "train"] = "learn"
    """learn: updates. act: policy calls. train: iterations of the training loop."""
    updates: int = 50
    """Number of recorded calls, after warm-up."""
    shapes: bool = False
    """Tell operators with different shapes of inputs apart."""
