"""TableConfig: all options of a tabular run in one frozen dataclass."""

import dataclasses
import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_type_hints

from fastdqn.config import limits
from fastdqn.config.schema import Config, ConfigError, current_names, unknown_name


@dataclass(frozen=True)
class TableConfig:
    """Options of a tabular run. Options of the same name mean the same as in Config."""

    env_id: str = "FrozenLake-v1"
    """Registered Gymnasium id. `module:Name-v0` imports the module first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, such as map_name=8x8 is_slippery=False."""
    wrapper: tuple[str, ...] = ()
    """Wrappers of each sub-environment, the innermost first: my_package:MyWrapper, or one of
    Gymnasium's."""
    preset: str = "table"
    """Preset that the settings started from. It only labels the run."""

    bins: tuple[int, ...] = (20,)
    """Bins per observation feature: one number for all, or one for each."""
    low: tuple[float, ...] | None = None
    """Lower edge of the first bin, for features whose space is unbounded: one for all, or one for
    each. None: the bounds of the space."""
    high: tuple[float, ...] | None = None
    """Upper edge of the last bin, in the same form."""
    precision: Literal["float32", "float64"] = "float32"
    """Float type of the table."""

    num_envs: int = 64
    """Environments that step in parallel."""
    total_timesteps: int | None = 200_000
    """Environment steps after which the run ends. None: only total_episodes ends it."""
    total_episodes: int | None = None
    """Episodes after which the run ends, if total_timesteps does not end it first."""
    seed: int = 1
    """Seed of environments and exploration."""
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How environments are vectorized. auto: the environment's own vector class if it has one, else
    sync."""
    max_step_seconds: float | None = 300.0
    """Timeout in seconds of a reset, of a step, and of making environments. None: no timeout."""
    restart_envs: int = 0
    """Failed sub-environments of async that may be restarted in total. Their episodes end as
    truncated. One more failure ends the run."""

    learning_rate: float = 0.2
    """Initial learning rate: the share of the TD error that an update corrects."""
    final_learning_rate: float | None = None
    """Final learning rate, reached linearly at total_timesteps. None: 1/100 of learning_rate, or
    the same if only episodes end the run."""
    gamma: float = 0.99
    """Discount factor per step."""

    exploration_initial_eps: float = 1.0
    """Initial epsilon."""
    exploration_final_eps: float = 0.1
    """Final epsilon."""
    exploration_fraction: float = 0.5
    """Fraction of total_timesteps over which epsilon decays linearly."""
    exploration_decay: float | None = None
    """Factor of epsilon per finished episode, in place of the linear decay."""

    eval_frequency: int = 0
    """Environment steps between greedy evaluations, which select the best table. 0: none, and the
    last table counts."""
    eval_episodes: int = 100
    """Episodes per evaluation, in parallel."""
    eval_max_steps: int | None = None
    """Maximum steps of an evaluation episode. None: the environment's own limit, else 27,000."""
    stop_at_return: float | None = None
    """Stop early once two evaluations on new seeds reach this mean return."""

    run_dir: str | None = None
    """Run folder, new or empty. None: runs/ENV__PRESET__SEED__TIME."""
    on_disk_error: Literal["stop", "continue"] = "stop"
    """When a file cannot be written: stop the run, or continue and retry. Failing to write at the
    end is always an error."""
    log_frequency: int | None = None
    """Environment steps between metrics rows. None: 1/200 of the budget."""
    tensorboard: bool | None = None
    """Write TensorBoard events. None: if the extra is installed."""

    def replace(self, /, **changes) -> "TableConfig":
        """Returns a copy with some options changed. Raises ConfigError for an unknown one."""
        changes = current_names(changes)
        known = [each.name for each in dataclasses.fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ConfigError([unknown_name("option", name, known) for name in unknown])
        return dataclasses.replace(self, **changes)

    def problems(self) -> list[str]:
        """Returns a message for each mistake that needs no environment to be found."""
        if lines := self.type_problems():
            return lines
        lines = limits.beyond(vars(self), _LIMITS) + self.shared().problems()
        if self.final_learning_rate is not None and self.total_timesteps is None:
            lines.append(
                "final_learning_rate is reached at total_timesteps, which is None: set "
                "total_timesteps, or leave it out"
            )
        return lines

    def type_problems(self) -> list[str]:
        """Returns a message for each option whose value does not have its declared type."""
        return limits.type_problems(vars(self), _HINTS)

    def shared(self) -> Config:
        """Returns the options shared with Config, and neutral values of all others."""
        names = {each.name for each in dataclasses.fields(Config)}
        values = {name: value for name, value in vars(self).items() if name in names}
        del values["learning_rate"]
        return Config(
            **values, final_evaluation=True, learning_starts=0, train_frequency=Fraction(1),
            batch_size=1, buffer_size=min(max(2, 2 * self.num_envs), 1 << 40),
        )  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TableConfig":
        """Parses what to_json() wrote. Raises ConfigError."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"config.json is not JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise ConfigError(["config.json is not an object of options"])
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        config = cls().replace(**current_names({**values, **lists}, warns=False))
        if lines := config.problems():
            raise ConfigError(lines)
        return config


_HINTS = get_type_hints(TableConfig)
_LIMITS = {
    # The number of a state has one digit per feature, with as many values as bins, in 64 bits.
    "bins": limits.Limit(1, 1 << 30),
    "low": limits.Limit(-1e30, 1e30),
    "high": limits.Limit(-1e30, 1e30),
    "learning_rate": limits.Limit(0, 1, open=True),
    "final_learning_rate": limits.Limit(0, 1),
}
