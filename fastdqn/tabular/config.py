"""TableConfig: every option of a Q-table's run as one flat, frozen record."""

import dataclasses
import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_type_hints

from fastdqn.config import limits
from fastdqn.config.schema import Config, ConfigError, current_names, unknown_name


@dataclass(frozen=True)
class TableConfig:
    """Options of one run, as those of Config where they have its names."""

    env_id: str = "FrozenLake-v1"
    """Id of a registered Gymnasium environment, 'module:Name-v0' to import its module first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor: map_name=8x8 is_slippery=False."""
    wrapper: tuple[str, ...] = ()
    """Wrappers of each lane, the first innermost: my_package:MyWrapper, or one of Gymnasium's."""
    preset: str = "table"
    """Name that the settings started from; it only labels the run."""

    bins: tuple[int, ...] = (20,)
    """Cells of each number of an observation: one for all, or one for each."""
    low: tuple[float, ...] | None = None
    """Where the first bin begins: one for all numbers whose space tells no bound, or one for each;
    None: the space's bounds."""
    high: tuple[float, ...] | None = None
    """Where the last bin ends, likewise."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the numbers of the table."""

    num_envs: int = 64
    """Environments that step together."""
    total_timesteps: int | None = 200_000
    """Steps after which the run ends; None: the episodes alone decide."""
    total_episodes: int | None = None
    """Episodes after which the run ends, if the steps do not end it first."""
    seed: int = 1
    """Of environments and exploration."""
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How lanes are stepped; auto: the environment's own vector class, else one after another."""
    max_step_seconds: float | None = 300.0
    """Seconds after which a reset or step that has not come back has failed, or the making of
    environments; None: never."""
    restart_envs: int = 0
    """Lanes of async that are restarted when they fail, in all; one more ends the run."""

    learning_rate: float = 0.2
    """Share of an error that is corrected, at first."""
    final_learning_rate: float | None = None
    """Share in the end, to which it falls in a straight line over total_timesteps; None: a
    hundredth of it, or the same where episodes alone end the run."""
    gamma: float = 0.99
    """Discount per step."""

    exploration_initial_eps: float = 1.0
    """Chance of a random action at first."""
    exploration_final_eps: float = 0.1
    """Chance of a random action in the end."""
    exploration_fraction: float = 0.5
    """Share of total_timesteps over which it falls, in a straight line."""
    exploration_decay: float | None = None
    """Multiply it by this for each finished episode instead."""

    eval_frequency: int = 0
    """Steps between greedy evaluations, of which the best table is kept; 0: none, the last is."""
    eval_episodes: int = 100
    """Episodes of an evaluation, in parallel."""
    eval_max_steps: int | None = None
    """Cap on an evaluation episode; None: the environment's own limit, else 27,000."""
    stop_at_return: float | None = None
    """End the run once two fresh evaluations reach this mean return."""

    run_dir: str | None = None
    """Folder of the run, new or empty; None: runs/ENV__PRESET__SEED__TIME."""
    on_disk_error: Literal["stop", "continue"] = "stop"
    """Where a file cannot be written: end the run, or go on and try again later; what cannot be
    written at the end is an error in any case."""
    log_frequency: int | None = None
    """Steps between rows of metrics; None: a two-hundredth of the budget."""
    tensorboard: bool | None = None
    """Write TensorBoard events; None: where the extra is installed."""

    def replace(self, /, **changes) -> "TableConfig":
        """A copy with some options changed. Raises ConfigError where one does not exist."""
        changes = current_names(changes)
        known = [each.name for each in dataclasses.fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ConfigError([unknown_name("option", name, known) for name in unknown])
        return dataclasses.replace(self, **changes)

    def problems(self) -> list[str]:
        """Every mistake that can be seen without the environment, one line each."""
        if lines := self.type_problems():
            return lines
        lines = limits.beyond(vars(self), _LIMITS) + self.shared().problems()
        if self.final_learning_rate is not None and self.total_timesteps is None:
            lines.append(
                "final_learning_rate is reached at total_timesteps, which is None: set that, or "
                "leave it out"
            )
        return lines

    def type_problems(self) -> list[str]:
        """A line for every option whose value is of another type than it is declared."""
        return limits.type_problems(vars(self), _HINTS)

    def shared(self) -> Config:
        """The options of a network's run that this one has too; of the others those that say
        nothing about a table."""
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
        """Read what to_json() wrote. Raises ConfigError where it is not that."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"config.json is not JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise ConfigError(["config.json holds no object of options"])
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        config = cls().replace(**current_names({**values, **lists}, warns=False))
        if lines := config.problems():
            raise ConfigError(lines)
        return config


_HINTS = get_type_hints(TableConfig)
_LIMITS = {
    # A bin is a digit of a number that must fit 64 bits, and memory long before.
    "bins": limits.Limit(1, 1 << 30),
    "low": limits.Limit(-1e30, 1e30),
    "high": limits.Limit(-1e30, 1e30),
    "learning_rate": limits.Limit(0, 1, open=True),
    "final_learning_rate": limits.Limit(0, 1),
}
