"""TableConfig: all options of a tabular run in one frozen dataclass."""

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Annotated, Literal

from fastdqn.config import limits
from fastdqn.config.option import Group, Limit, options_of
from fastdqn.config.schema import Config, RunOptions


@dataclass(frozen=True)
class TableConfig(RunOptions):
    """Options of a tabular run. Those of RunOptions mean the same as in Config."""

    env_id: str = "FrozenLake-v1"
    preset: str = "table"

    # The number of a state has one digit per feature, with as many values as bins, in 64 bits.
    bins: Annotated[tuple[int, ...], Limit(1, 1 << 30), Group("table")] = (20,)
    """Bins per observation feature: one number for all, or one for each."""
    low: Annotated[tuple[float, ...] | None, Limit(-1e30, 1e30), Group("table")] = None
    """Lower edge of the first bin, for features whose space is unbounded: one for all, or one for
    each. None: the bounds of the space."""
    high: Annotated[tuple[float, ...] | None, Limit(-1e30, 1e30), Group("table")] = None
    """Upper edge of the last bin, in the same form."""
    precision: Annotated[Literal["float32", "float64"], Group("table")] = "float32"
    """Float type of the table."""

    num_envs: int = 64
    total_timesteps: int | None = 200_000
    seed: int = 1
    """Seed of environments and exploration."""

    learning_rate: Annotated[float, Limit(0, 1, open=True), Group("learning")] = 0.2
    """Initial learning rate: the share of the TD error that an update corrects."""
    final_learning_rate: Annotated[float | None, Limit(0, 1), Group("learning")] = None
    """Final learning rate, reached linearly at total_timesteps. None: 1/100 of learning_rate, or
    the same if only episodes end the run."""

    exploration_initial_eps: float = 1.0
    """Initial epsilon."""
    exploration_final_eps: float = 0.1
    """Final epsilon."""
    exploration_fraction: float = 0.5

    eval_frequency: int = 0
    """Environment steps between greedy evaluations, which select the best table. 0: none, and the
    last table counts."""
    eval_episodes: int = 100

    def problems(self) -> list[str]:
        """Returns a message for each mistake that needs no environment to be found."""
        if lines := self.type_problems():
            return lines
        own = {name: each for name, each in options_of(TableConfig).items() if _is_own(name)}
        beyond = [limits.beyond(name, getattr(self, name), own[name].limit) for name in own]
        lines = [*filter(None, beyond), *self.shared().problems()]
        if self.final_learning_rate is not None and self.total_timesteps is None:
            lines.append(
                "final_learning_rate is reached at total_timesteps, which is None: set "
                "total_timesteps, or leave it out"
            )
        return lines

    def shared(self) -> Config:
        """Returns the options shared with Config, and neutral values of all others."""
        values = {name: value for name, value in vars(self).items() if not _is_own(name)}
        return Config(
            **values, final_evaluation=True, learning_starts=0, train_frequency=Fraction(1),
            batch_size=1, buffer_size=min(max(2, 2 * self.num_envs), 1 << 40),
        )  # fmt: skip


def _is_own(name: str) -> bool:
    """Returns whether an option is not one of RunOptions."""
    return name not in {field.name for field in fields(RunOptions)}
