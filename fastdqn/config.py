"""Config: every option of a run as one flat, frozen record, and what may be wrong with it."""

import dataclasses
import difflib
import json
import math
import re
import types
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Config:
    """Options of one run. None and 'auto' are resolved once, printed, and written to config.json.

    Counts of steps are environment transitions summed over all environments.
    """

    env_id: str = "CartPole-v1"
    """Id of a registered Gymnasium environment, 'module:Name-v0' to import its module first."""
    preset: str = "default"
    """Name that the settings started from; it only labels the run."""

    num_envs: int = 16
    """Environments that step together."""
    total_timesteps: int | None = 500_000
    """Steps after which the run ends; None: the episodes alone decide."""
    total_episodes: int | None = None
    """Episodes after which the run ends, if the steps do not end it first."""
    seed: int = 1
    """Of environments, exploration, sampling and initial weights."""
    vectorization: Literal["auto", "native", "sync", "async"] = "auto"
    """How lanes are stepped; auto: the environment's own vector class, else one after another."""

    learning_rate: float = 5e-4
    """Of Adam."""
    buffer_size: int = 100_000
    """Rows of replay, summed over environments."""
    learning_starts: int = 1_000
    """Steps before the first update."""
    batch_size: int = 128
    """Transitions in an update."""
    train_frequency: Fraction = Fraction(4)
    """Steps per update, whatever num_envs; may be a fraction: 1/2 makes two updates a step."""
    target_network_frequency: int = 2_000
    """Steps between target updates."""
    tau: float = 1.0
    """Share of the online weights in a target update; 1 copies them."""
    gamma: float = 0.99
    """Discount per step."""
    n_steps: int = 1
    """Rewards summed before bootstrapping."""
    max_grad_norm: float | None = 10.0
    """Global-norm clip of the gradient; None: no clip."""
    loss: Literal["mse", "huber"] = "mse"
    """Of the temporal-difference error."""
    double: bool = True
    """Double DQN: the online network selects the action that the target network evaluates."""
    dueling: bool = True
    """Dueling head: state value plus centred advantages."""
    hidden_sizes: tuple[int, ...] = (120, 84)
    """Units of each hidden layer."""

    exploration_initial_eps: float = 1.0
    """Chance of a random action at first."""
    exploration_final_eps: float = 0.05
    """Chance of a random action in the end."""
    exploration_fraction: float = 0.2
    """Share of total_timesteps over which it falls, in a straight line."""
    exploration_decay: float | None = None
    """Multiply it by this for each finished episode instead."""

    eval_frequency: int = 10_000
    """Steps between greedy evaluations; 0: none."""
    eval_episodes: int = 20
    """Episodes of an evaluation, in parallel."""
    eval_max_steps: int | None = None
    """Cap on an evaluation episode; None: the environment's own limit, else 27,000."""
    stop_at_return: float | None = None
    """End the run once two fresh evaluations reach this mean return."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda where there is one and the network is large."""
    threads: int | None = None
    """Torch threads; None: one for a small network on the CPU, else all cores."""
    capture: Literal["eager", "compile"] = "eager"
    """How an update runs: as written, or compiled by torch (takes a minute at the start)."""
    run_dir: str | None = None
    """Folder of the run, new or empty; None: runs/ENV__PRESET__SEED__TIME."""
    log_frequency: int | None = None
    """Steps between rows of metrics; None: a two-hundredth of the budget."""
    tensorboard: bool | None = None
    """Write TensorBoard events; None: where the extra is installed."""

    def __post_init__(self):
        object.__setattr__(self, "train_frequency", as_fraction(self.train_frequency))
        if isinstance(self.hidden_sizes, list):
            object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))

    def replace(self, **changes) -> "Config":
        """A copy with some options changed. Raises ConfigError where one does not exist."""
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ConfigError([unknown_name("option", name, known) for name in unknown])
        return dataclasses.replace(self, **changes)

    def problems(self) -> list[str]:
        """Every mistake that can be seen without the environment, one line each."""
        if wrong_types := self.type_problems():
            return wrong_types
        limits = [line for name, limit in _LIMITS.items() if (line := self._beyond(name, limit))]
        return limits or [text for broken, text in self._conflicts() if broken]

    def type_problems(self) -> list[str]:
        """A line for every option whose value is of another type than it is declared."""
        return [line for line in map(self._type_problem, dataclasses.fields(self)) if line]

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        per = self.train_frequency
        values["train_frequency"] = per.numerator if per.denominator == 1 else str(per)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Read what to_json() wrote. Raises ConfigError where it is not that."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"config.json is not JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise ConfigError(["config.json holds no object of options"])
        config = cls().replace(**values)
        if lines := config.problems():
            raise ConfigError(lines)
        return config

    def _type_problem(self, field: dataclasses.Field) -> str | None:
        value, hint = getattr(self, field.name), _HINTS[field.name]
        if _is_instance(value, hint):
            return None
        return f"{field.name} is {value!r}: it must be {spell(hint)}"

    def _beyond(self, name: str, limit: "Limit") -> str | None:
        value = getattr(self, name)
        if value is None:
            return None
        for number in value if isinstance(value, tuple) else (value,):
            if not limit.holds(number):
                return f"{name} is {number}: it must be {limit.text}"
        return None

    def _conflicts(self):
        """Pairs of (broken, line) over several options, each already within its own limits."""
        steps, episodes = self.total_timesteps, self.total_episodes
        yield (
            steps is None and episodes is None,
            ("total_timesteps and total_episodes are both None: the run would never end; set one"),
        )
        yield (
            steps is None and self.exploration_decay is None,
            (
                "exploration_fraction is a share of total_timesteps, which is None: set it, or "
                "exploration_decay"
            ),
        )
        yield (
            self.batch_size > self.buffer_size,
            (
                f"batch_size is {self.batch_size}, buffer_size only {self.buffer_size}: "
                "a batch must fit into the replay"
            ),
        )
        yield (
            self.buffer_size < 2 * self.num_envs,
            (
                f"buffer_size is {self.buffer_size}: {self.num_envs} environments need at least "
                f"{2 * self.num_envs}, two rows each"
            ),
        )
        yield (
            steps is not None and self.learning_starts >= steps,
            (
                f"learning_starts is {self.learning_starts}, total_timesteps only {steps}: "
                "nothing would be learned"
            ),
        )
        windows = self.num_envs * (self.n_steps - 1)
        yield (
            self.learning_starts < windows,
            (
                f"learning_starts is {self.learning_starts}: {self.num_envs} environments need "
                f"{windows} steps before every {self.n_steps}-step window can be complete"
            ),
        )
        yield (
            self.exploration_final_eps > self.exploration_initial_eps,
            (
                f"exploration_final_eps is {self.exploration_final_eps}, above "
                f"exploration_initial_eps {self.exploration_initial_eps}: exploration only falls"
            ),
        )
        yield (
            self.stop_at_return is not None and self.eval_frequency == 0,
            (
                "stop_at_return is decided by evaluations, and eval_frequency is 0: set that, or "
                "stop_at_return to None"
            ),
        )


class ConfigError(ValueError):
    """Mistakes of a user's, one line each in .lines."""

    def __init__(self, lines: list[str]):
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class Limit:
    """An interval of finite numbers: low <= x <= high, or low < x where open."""

    low: float
    high: float = math.inf
    open: bool = False

    def holds(self, number) -> bool:
        try:
            finite = math.isfinite(number)
        except OverflowError:  # a whole number or fraction beyond any float
            return False
        if not finite:
            return False
        return (self.low < number if self.open else self.low <= number) and number <= self.high

    @property
    def text(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        low = f"above {self.low:,}" if self.open else f"at least {self.low:,}"
        return f"a number, {low}" + ("" if self.high == math.inf else f", at most {self.high:,}")


_COUNT = Limit(1, 1 << 40)
_SHARE = Limit(0, 1)
_POSITIVE = Limit(0, open=True)
_LIMITS = {
    "num_envs": Limit(1, 1 << 20),
    "total_timesteps": _COUNT,
    "total_episodes": _COUNT,
    "seed": Limit(0, (1 << 63) - 1),
    "learning_rate": _POSITIVE,
    "buffer_size": _COUNT,
    "learning_starts": Limit(0, 1 << 40),
    "batch_size": Limit(1, 1 << 24),
    "train_frequency": Limit(1e-6, 1 << 40),
    "target_network_frequency": _COUNT,
    "tau": Limit(0, 1, open=True),
    "gamma": _SHARE,
    "n_steps": Limit(1, 1 << 16),
    "max_grad_norm": _POSITIVE,
    "hidden_sizes": Limit(1, 1 << 20),
    "exploration_initial_eps": _SHARE,
    "exploration_final_eps": _SHARE,
    "exploration_fraction": _SHARE,
    "exploration_decay": Limit(0, 1, open=True),
    "eval_frequency": Limit(0, 1 << 40),
    "eval_episodes": Limit(1, 1 << 20),
    "eval_max_steps": _COUNT,
    "stop_at_return": Limit(-math.inf),
    "threads": Limit(1, 1 << 12),
    "log_frequency": _COUNT,
}
_HINTS = get_type_hints(Config)
# Fraction('1e999999999') would write out all its digits: exponents stop where those of floats do.
_HUGE_EXPONENT = re.compile(r"[eE][+-]?[\d_]{4}")


def as_fraction(value: Any) -> Any:
    """A number or '1/3' as an exact Fraction; what is neither comes back as it is."""
    if isinstance(value, bool) or _HUGE_EXPONENT.search(str(value)):
        return value
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return value


def unknown_name(kind: str, name: str, known) -> str:
    """One line for a name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown {kind} {name!r}" + (f": did you mean {near[0]}?" if near else "")


def _is_instance(value, hint) -> bool:
    if get_origin(hint) is types.UnionType:
        return any(_is_instance(value, arm) for arm in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_instance(v, int) for v in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def spell(hint) -> str:
    """A type hint of an option in words."""
    if get_origin(hint) is types.UnionType:
        return " or ".join(spell(arm) for arm in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        return "whole numbers"
    names = {
        int: "a whole number",
        float: "a number",
        Fraction: "a number or a fraction such as 1/3",
        str: "a text",
        bool: "true or false",
        type(None): "None",
    }
    return names.get(hint) or f"a {hint.__name__.lower()}"
