"""Config: every option of a run as one flat, frozen record."""

import dataclasses
import difflib
import json
import re
import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_type_hints

from fastdqn.config import limits


@dataclass(frozen=True)
class Config:
    """Options of one run. None and 'auto' are resolved once, printed, and written to config.json.

    Counts of steps are environment transitions summed over all environments.
    """

    env_id: str = "CartPole-v1"
    """Id of a registered Gymnasium environment, 'module:Name-v0' to import its module first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor: size=8 slippery=False."""
    wrapper: tuple[str, ...] = ()
    """Wrappers of each lane, the first innermost: my_package:MyWrapper, or one of Gymnasium's."""
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
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How lanes are stepped; auto: the environment's own vector class, else one after another."""
    env_batch_size: int | None = None
    """Lanes whose answers a call waits for, with async, envpool and Atari; None: all of them."""
    atari_protocol: Literal["auto", "dqn2015", "machado2018", "none"] = "auto"
    """Settings of Atari, each of which env_kwargs may change; auto: machado2018 for ALE ids."""
    max_step_seconds: float | None = 300.0
    """Seconds after which a reset or step that has not come back has failed, or the making of
    environments; None: never."""
    restart_envs: int = 0
    """Restarts of sub-environments of async that fail, in all, their episodes ending as
    truncated; one more ends the run."""

    learning_rate: float = 5e-4
    """Of Adam."""
    adam_epsilon: float = 1e-8
    """Of Adam: added to the root of its second moment."""
    buffer_size: int = 100_000
    """Rows of replay, summed over environments."""
    store: Literal["auto", "rows", "frames"] = "auto"
    """What a row keeps: the observation, or of stacked frames the newest, so that each is kept
    once; auto: frames where the environment declares that it stacks them."""
    learning_starts: int = 1_000
    """Steps before the first update."""
    replay: bool = True
    """Learn from stored transitions again and again; without: from the newest, once, in order."""
    batch_size: int = 128
    """Transitions in an update."""
    train_frequency: Fraction = Fraction(4)
    """Steps per update, whatever num_envs; may be a fraction: 1/2 makes two updates a step."""
    target_network: bool = True
    """A copy of the network, kept back, evaluates; without: the online network itself does."""
    target_network_frequency: int = 2_000
    """Steps between target updates; all that fall due between two gradient steps are made."""
    tau: float = 1.0
    """Share of the online weights in a target update; 1 copies them."""
    gamma: float = 0.99
    """Discount per step."""
    n_steps: int = 1
    """Rewards summed before bootstrapping."""
    max_grad_norm: float | None = 10.0
    """Global-norm clip of the gradient; None: no clip."""
    loss: Literal["mse", "huber"] = "mse"
    """Of the TD error: mse is its square, without the 1/2 of some papers; huber has it."""
    double: bool = True
    """Double DQN: the online network selects the action that the target network evaluates."""
    dueling: bool = True
    """Dueling head: state value plus centred advantages."""
    dueling_gradient_scale: float = 1.0
    """Factor of the gradient that enters the shared layers from the dueling streams: Wang et al.
    2016 have 0.7071, 1/sqrt(2)."""
    munchausen: bool = False
    """Soft policy and its log-probability as a bonus, in place of --double; not for categorical."""
    munchausen_alpha: float = 0.9
    """Share of the bonus."""
    munchausen_temperature: float = 0.03
    """Of the soft policy, in the units of values."""
    munchausen_floor: float = -1.0
    """The scaled log-probability is cut off below this."""
    value: Literal["scalar", "categorical", "quantile", "implicit-quantile"] = "scalar"
    """What an output means: expected return, atoms (C51), quantiles (QR-DQN), or IQN's."""
    num_atoms: int = 51
    """Of categorical values, from v_min to v_max."""
    v_min: float = -10.0
    """Least discounted return that categorical values can tell."""
    v_max: float = 10.0
    """Largest discounted return that categorical values can tell."""
    num_quantiles: int = 32
    """Of quantile values."""
    num_fractions: int = 8
    """Of implicit quantiles: samples of the prediction (N); the paper's Atari agents have 64."""
    num_target_fractions: int = 8
    """Of implicit quantiles: samples of the target (N'); the paper's Atari agents have 64."""
    num_policy_fractions: int = 32
    """Of implicit quantiles: samples that say which action is best (K)."""
    noisy: bool = False
    """Noisy layers after the first hidden one explore, by learned noise, in place of epsilon."""
    noisy_sigma: float = 0.5
    """Initial deviation of noisy layers, by the square root of their inputs."""
    prioritized: bool = False
    """Draw transitions by their last error (PER), not uniformly; no share of draws is uniform."""
    priority_exponent: float = 0.5
    """How much priorities count: 0 draws uniformly."""
    importance_exponent: float = 0.4
    """How much of that bias weights undo at first; it rises to 1 over total_timesteps."""
    torso: Literal["auto", "mlp", "nature", "data-efficient", "minatar"] = "auto"
    """What looks at an observation first: an MLP, or the convolutions of Nature 2015, of Rainbow's
    data-efficient variant (a sixth of the work), or of MinAtar; auto: nature for bytes [K, 84, 84],
    minatar for [10, 10, C], else mlp."""
    hidden_sizes: tuple[int, ...] | None = None
    """Units of each hidden layer; None: 512 behind nature, 256 behind data-efficient, 128 behind
    minatar, else 120 84."""
    normalize_observation: bool = False
    """Bring each number of an observation to mean 0 and deviation 1, by what was seen so far."""
    normalize_reward: bool = False
    """Divide rewards by the deviation of the discounted return; the record keeps true ones."""

    exploration: Literal["schedule", "ladder"] = "schedule"
    """One epsilon that falls by schedule, or a constant one for each environment (Ape-X)."""
    ladder_epsilon: float = 0.4
    """Of the ladder: lane i explores with ladder_epsilon^(1 + ladder_alpha i/(num_envs - 1))."""
    ladder_alpha: float = 7.0
    """Of the ladder: how much less the last lane explores than the first."""
    exploration_initial_eps: float | None = None
    """Chance of a random action at first; None: 1, with --noisy the final one."""
    exploration_final_eps: float | None = None
    """Chance of a random action in the end; None: 0.05, with --noisy 0."""
    exploration_fraction: float = 0.2
    """Share of total_timesteps over which it falls, in a straight line."""
    exploration_decay: float | None = None
    """Multiply it by this for each finished episode instead."""
    exploration_zeta: float | None = None
    """Go on with a random action, for k steps with a chance of k to the power of minus this
    (ez-greedy, whose authors take 2); None: it is made once."""

    eval_frequency: int = 10_000
    """Steps between greedy evaluations; 0: none."""
    final_evaluation: bool | None = None
    """Evaluate the best weights once more at the end, on fresh seeds; None: unless eval_frequency
    is 0. Without any evaluation no environments are made for it."""
    eval_episodes: int = 20
    """Episodes of an evaluation, in parallel."""
    eval_max_steps: int | None = None
    """Cap on an evaluation episode; None: the environment's own limit, else 27,000."""
    stop_at_return: float | None = None
    """End the run once two fresh evaluations reach this mean return."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda where there is one and the network is large."""
    threads: int | None = None
    """Of torch; None: one for a small network on the CPU, else all cores. Of a fused update, at
    most 2; None: 2 where a core is free and the batch large. Its bits depend on this number."""
    learner: Literal["auto", "fused", "torch"] = "auto"
    """What updates: one kernel for small MLPs on the CPU, or torch; auto: fused where it can."""
    capture: Literal["auto", "eager", "compile", "graph"] = "auto"
    """How updates and acting run: as written, compiled by torch (takes a minute at the start), or
    launched at once as a CUDA graph; auto: graph on CUDA, eager on the CPU."""
    precision: Literal["auto", "float32", "tf32", "bf16"] = "auto"
    """Of products on CUDA: float32, factors rounded to TF32, or bfloat16 in the torso; auto: tf32
    there. The CPU has float32 alone."""
    updates_per_launch: int | None = None
    """Updates that a CUDA graph makes at once, a power of two; None: as many as a turn of all lanes
    earns, at most 8, but 1 with --prioritized, whose priorities would come back late by as many."""
    priority_lag: int | None = None
    """Launches by which priorities come back late: 0, or 1, so that nothing waits for a device;
    None: 1 on CUDA, 0 on the CPU."""
    run_dir: str | None = None
    """Folder of the run, new or empty; None: runs/ENV__PRESET__SEED__TIME."""
    checkpoint_frequency: int | None = None
    """Steps between checkpoints, which a run can be resumed from; None: by time alone."""
    checkpoint_seconds: float | None = 60.0
    """Seconds between checkpoints; None: by steps alone. One is written at the end in any case."""
    checkpoint_replay: bool = True
    """Keep the replay in checkpoints: without it a resumed run begins with an empty one."""
    on_disk_error: Literal["stop", "continue"] = "stop"
    """Where a file cannot be written: end the run, or go on and try again later; what cannot be
    written at the end is an error in any case."""
    log_frequency: int | None = None
    """Steps between rows of metrics; None: a two-hundredth of the budget."""
    tensorboard: bool | None = None
    """Write TensorBoard events; None: where the extra is installed."""
    wandb: bool = False
    """Write to Weights & Biases too (extra wandb); WANDB_MODE=offline: into the run folder."""

    def __post_init__(self):
        object.__setattr__(self, "train_frequency", as_fraction(self.train_frequency))
        if isinstance(self.wrapper, str):
            object.__setattr__(self, "wrapper", (self.wrapper,))
        for name in ("hidden_sizes", "wrapper"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, hint in _HINTS.items():  # gamma=1 is the number 1.0 to every kernel and tensor
            value = getattr(self, name)
            if hint in (float, float | None) and type(value) is int and abs(value) < 1 << 53:
                object.__setattr__(self, name, float(value))

    def replace(self, /, **changes) -> "Config":
        """A copy with some options changed. Raises ConfigError where one does not exist."""
        changes = current_names(changes)
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ConfigError([unknown_name("option", name, known) for name in unknown])
        return dataclasses.replace(self, **changes)

    def problems(self) -> list[str]:
        """Every mistake that can be seen without the environment, one line each."""
        return self.type_problems() or limits.limit_problems(vars(self))

    def type_problems(self) -> list[str]:
        """A line for every option whose value is of another type than it is declared."""
        return limits.type_problems(vars(self), _HINTS)

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        per = self.train_frequency
        values["train_frequency"] = per.numerator if per.denominator == 1 else str(per)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Read what to_json() wrote, at any time: a run goes on as it was. Raises ConfigError where
        it is not that."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"config.json is not JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise ConfigError(["config.json holds no object of options"])
        config = cls().replace(**(_BEFORE | current_names(values, warns=False)))
        if lines := config.problems():
            raise ConfigError(lines)
        return config


# Old names of options, accepted with a warning until 0.3.
RENAMED = {"restart_lanes": "restart_envs"}


def current_names(values: dict[str, Any], warns: bool = True) -> dict[str, Any]:
    """Returns options by their names of today; an old name is a FutureWarning where warns."""
    for old in RENAMED.keys() & values.keys() if warns else ():
        warnings.warn(f"{old} is now called {RENAMED[old]}", FutureWarning, stacklevel=4)
    return {RENAMED.get(name, name): value for name, value in values.items()}


class ConfigError(ValueError):
    """Mistakes of a user's, one line each in .lines."""

    def __init__(self, lines: list[str]):
        super().__init__("\n".join(lines))
        self.lines = lines


_HINTS = get_type_hints(Config)
# What was done before there were options for it, where that is not their default.
_BEFORE = {
    "store": "rows", "torso": "mlp", "atari_protocol": "none", "precision": "float32",
    "updates_per_launch": 1, "priority_lag": 0, "final_evaluation": True,
}  # fmt: skip
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
    bare = {option.lstrip("-"): option for option in known}  # shared dashes are no likeness
    near = difflib.get_close_matches(name.lstrip("-"), bare, n=1)
    return f"unknown {kind} {name!r}" + (f": did you mean {bare[near[0]]}?" if near else "")
