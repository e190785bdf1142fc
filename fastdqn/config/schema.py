"""Config: all options of a run in one frozen dataclass."""

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
    """Options of a run. None and auto are resolved once, printed, and written to config.json.

    Steps are environment transitions, summed over all environments.
    """

    env_id: str = "CartPole-v1"
    """Registered Gymnasium id. `module:Name-v0` imports the module first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, such as size=8 slippery=False."""
    wrapper: tuple[str, ...] = ()
    """Wrappers of each sub-environment, the innermost first: my_package:MyWrapper, or one of
    Gymnasium's."""
    preset: str = "default"
    """Preset that the settings started from. It only labels the run."""

    num_envs: int = 16
    """Environments that step in parallel."""
    total_timesteps: int | None = 500_000
    """Environment steps after which the run ends. None: only total_episodes ends it."""
    total_episodes: int | None = None
    """Episodes after which the run ends, if total_timesteps does not end it first."""
    seed: int = 1
    """Seed of environments, exploration, sampling and initial weights."""
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """How environments are vectorized. auto: the environment's own vector class if it has one, else
    sync."""
    env_batch_size: int | None = None
    """Sub-environments that a step waits for, with async, envpool and Atari. None: all."""
    atari_protocol: Literal["auto", "dqn2015", "machado2018", "none"] = "auto"
    """Atari settings, which env_kwargs may override. auto: machado2018 for ALE ids."""
    max_step_seconds: float | None = 300.0
    """Timeout in seconds of a reset, of a step, and of making environments. None: no timeout."""
    restart_envs: int = 0
    """Failed sub-environments of async that may be restarted in total. Their episodes end as
    truncated. One more failure ends the run."""

    learning_rate: float = 5e-4
    """Learning rate of Adam."""
    adam_epsilon: float = 1e-8
    """Epsilon of Adam: a constant added to the square root of the second moment."""
    buffer_size: int = 100_000
    """Capacity of the replay buffer in transitions, summed over environments."""
    store: Literal["auto", "rows", "frames"] = "auto"
    """What a row of the replay stores: the whole observation, or only its newest frame. auto:
    frames where the environment declares frame stacking, else rows."""
    learning_starts: int = 1_000
    """Environment steps before the first update."""
    replay: bool = True
    """Sample transitions from a replay buffer. --no-replay: learn from each transition once, in
    order."""
    batch_size: int = 128
    """Transitions per update."""
    train_frequency: Fraction = Fraction(4)
    """Environment steps per update, for any num_envs. It may be a fraction: 1/2 makes two updates
    per step."""
    target_network: bool = True
    """Use a target network. --no-target-network: bootstrap from the online network."""
    target_network_frequency: int = 2_000
    """Environment steps between target network updates. Updates that fall due between two gradient
    steps are applied together."""
    tau: float = 1.0
    """Polyak coefficient of a target network update. 1 is a hard update."""
    gamma: float = 0.99
    """Discount factor per step."""
    n_steps: int = 1
    """Rewards summed before bootstrapping."""
    max_grad_norm: float | None = 10.0
    """Maximum global norm of the gradient, which is clipped to it. None: no clipping."""
    loss: Literal["mse", "huber"] = "mse"
    """Loss of the TD error: mse is its square without a factor of 1/2, huber includes the
    factor."""
    double: bool = True
    """Double DQN: the online network selects the action that the target network evaluates."""
    dueling: bool = True
    """Dueling head: state value plus centered advantages."""
    dueling_gradient_scale: float = 1.0
    """Factor of the gradient from the dueling streams into the shared layers. Wang et al. 2016 use
    0.7071, 1/sqrt(2)."""
    munchausen: bool = False
    """Munchausen DQN: a soft policy, with its scaled log-probability as a bonus. It replaces
    --double and excludes categorical values."""
    munchausen_alpha: float = 0.9
    """Factor of the Munchausen bonus."""
    munchausen_temperature: float = 0.03
    """Temperature of the Munchausen policy, in units of return."""
    munchausen_floor: float = -1.0
    """Lower bound of the scaled log-probability in the Munchausen bonus."""
    value: Literal["scalar", "categorical", "quantile", "implicit-quantile"] = "scalar"
    """What the network predicts: expected return, atoms (C51), quantiles (QR-DQN), or sampled
    quantiles (IQN)."""
    num_atoms: int = 51
    """Atoms of categorical values, from v_min to v_max."""
    v_min: float = -10.0
    """Smallest discounted return that categorical values can represent."""
    v_max: float = 10.0
    """Largest discounted return that categorical values can represent."""
    num_quantiles: int = 32
    """Quantiles of quantile values."""
    num_fractions: int = 8
    """Samples of the prediction of implicit quantiles (N). The paper uses 64 on Atari."""
    num_target_fractions: int = 8
    """Samples of the target of implicit quantiles (N'). The paper uses 64 on Atari."""
    num_policy_fractions: int = 32
    """Samples of implicit quantiles that select the greedy action (K)."""
    noisy: bool = False
    """Noisy layers after the first hidden layer: learned noise explores in place of epsilon."""
    noisy_sigma: float = 0.5
    """Initial standard deviation of noisy layers (sigma_0), divided by the square root of their
    inputs."""
    prioritized: bool = False
    """Prioritized replay: sample in proportion to the last TD error, with no uniform share."""
    priority_exponent: float = 0.5
    """Exponent of priorities. 0 samples uniformly."""
    importance_exponent: float = 0.4
    """Initial exponent of the importance sampling weights. It rises to 1 over total_timesteps."""
    torso: Literal["auto", "mlp", "nature", "data-efficient", "minatar"] = "auto"
    """Network before the head: an MLP, or convolutions of Nature 2015, data-efficient Rainbow, or
    MinAtar. auto: nature for uint8 [K, 84, 84], minatar for [10, 10, C], else mlp."""
    hidden_sizes: tuple[int, ...] | None = None
    """Units of each hidden layer. None: 512 after nature, 256 after data-efficient, 128 after
    minatar, else 120 84."""
    normalize_observation: bool = False
    """Normalize each observation feature by its running mean and standard deviation."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return. Logged returns
    stay unscaled."""

    exploration: Literal["schedule", "ladder"] = "schedule"
    """schedule: one epsilon that decays. ladder: a constant epsilon for each environment
    (Ape-X)."""
    ladder_epsilon: float = 0.4
    """Base of the ladder: environment i explores with ladder_epsilon^(1 + ladder_alpha i/(num_envs
    - 1))."""
    ladder_alpha: float = 7.0
    """Exponent of the ladder: the larger, the less the last environment explores."""
    exploration_initial_eps: float | None = None
    """Initial epsilon. None: 1, or with --noisy the final epsilon."""
    exploration_final_eps: float | None = None
    """Final epsilon. None: 0.05, or with --noisy 0."""
    exploration_fraction: float = 0.2
    """Fraction of total_timesteps over which epsilon decays linearly."""
    exploration_decay: float | None = None
    """Factor of epsilon per finished episode, in place of the linear decay."""
    exploration_zeta: float | None = None
    """Repeat a random action for k steps with probability proportional to k^-zeta (ez-greedy, whose
    paper uses 2). None: no repeats."""

    eval_frequency: int = 10_000
    """Environment steps between greedy evaluations. 0: none."""
    final_evaluation: bool | None = None
    """Evaluate the best weights at the end, on new seeds. None: yes, unless eval_frequency is 0.
    Without evaluations no environments are made for them."""
    eval_episodes: int = 20
    """Episodes per evaluation, in parallel."""
    eval_max_steps: int | None = None
    """Maximum steps of an evaluation episode. None: the environment's own limit, else 27,000."""
    stop_at_return: float | None = None
    """Stop early once two evaluations on new seeds reach this mean return."""

    device: str = "auto"
    """cpu, cuda, cuda:1, and so on. auto: cuda if available and the network is large, else cpu."""
    threads: int | None = None
    """CPU threads of torch. None: all cores for a large network on the CPU, else 1. The fused
    learner uses at most 2, and by default 2 if a core is idle and the batch is large. Its bits
    depend on this number."""
    learner: Literal["auto", "fused", "torch"] = "auto"
    """fused: one compiled kernel for small MLPs on the CPU. torch: autograd. auto: fused where it
    applies."""
    capture: Literal["auto", "eager", "compile", "graph"] = "auto"
    """How updates and policy run: eager, compiled by torch (a minute at startup), or as a CUDA
    graph. auto: graph on CUDA, eager on the CPU."""
    precision: Literal["auto", "float32", "tf32", "bf16"] = "auto"
    """Precision of matrix products on CUDA: float32, TF32, or bfloat16 in the torso. auto: tf32.
    The CPU uses float32."""
    updates_per_launch: int | None = None
    """Updates per CUDA graph launch, a power of two. None: as many as a step of all environments
    earns, up to 8. With --prioritized 1, since priorities would return late."""
    priority_lag: int | None = None
    """Launches by which priorities return late: 0, or 1 so that no launch waits. None: 1 on CUDA, 0
    on the CPU."""
    run_dir: str | None = None
    """Run folder, new or empty. None: runs/ENV__PRESET__SEED__TIME."""
    checkpoint_frequency: int | None = None
    """Environment steps between checkpoints. None: only checkpoint_seconds decides."""
    checkpoint_seconds: float | None = 60.0
    """Seconds between checkpoints. None: only checkpoint_frequency decides. One is always written
    at the end."""
    checkpoint_replay: bool = True
    """Include the replay buffer in checkpoints. Without it a resumed run starts with an empty
    one."""
    on_disk_error: Literal["stop", "continue"] = "stop"
    """When a file cannot be written: stop the run, or continue and retry. Failing to write at the
    end is always an error."""
    log_frequency: int | None = None
    """Environment steps between metrics rows. None: 1/200 of the budget."""
    tensorboard: bool | None = None
    """Write TensorBoard events. None: if the extra is installed."""
    wandb: bool = False
    """Log to Weights & Biases (extra wandb). WANDB_MODE=offline logs into the run folder."""

    def __post_init__(self):
        object.__setattr__(self, "train_frequency", as_fraction(self.train_frequency))
        if isinstance(self.wrapper, str):
            object.__setattr__(self, "wrapper", (self.wrapper,))
        for name in ("hidden_sizes", "wrapper"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, hint in _HINTS.items():  # kernels and tensors need gamma=1 as 1.0
            value = getattr(self, name)
            if hint in (float, float | None) and type(value) is int and abs(value) < 1 << 53:
                object.__setattr__(self, name, float(value))

    def replace(self, /, **changes) -> "Config":
        """Returns a copy with some options changed. Raises ConfigError for an unknown one."""
        changes = current_names(changes)
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ConfigError([unknown_name("option", name, known) for name in unknown])
        return dataclasses.replace(self, **changes)

    def problems(self) -> list[str]:
        """Returns a message for each mistake that needs no environment to be found."""
        return self.type_problems() or limits.limit_problems(vars(self))

    def type_problems(self) -> list[str]:
        """Returns a message for each option whose value does not have its declared type."""
        return limits.type_problems(vars(self), _HINTS)

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        per = self.train_frequency
        values["train_frequency"] = per.numerator if per.denominator == 1 else str(per)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Parses what to_json() of this or an earlier version wrote. Raises ConfigError."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"config.json is not JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise ConfigError(["config.json is not an object of options"])
        config = cls().replace(**(_BEFORE | current_names(values, warns=False)))
        if lines := config.problems():
            raise ConfigError(lines)
        return config


# Old names of options, accepted with a warning until 0.2.
RENAMED = {"restart_lanes": "restart_envs"}


def current_names(values: dict[str, Any], warns: bool = True) -> dict[str, Any]:
    """Returns options by their current names. Where warns, an old name is a FutureWarning.

    Raises:
        ConfigError: An option is given by both names.
    """
    for old in RENAMED.keys() & values.keys():
        if RENAMED[old] in values:
            raise ConfigError([f"{old} is now called {RENAMED[old]}: leave {old} out"])
        if warns:
            warnings.warn(f"{old} is now called {RENAMED[old]}", FutureWarning, stacklevel=3)
    return {RENAMED.get(name, name): value for name, value in values.items()}


class ConfigError(ValueError):
    """Mistakes of the user, one line each in .lines."""

    def __init__(self, lines: list[str]):
        super().__init__("\n".join(lines))
        self.lines = lines


_HINTS = get_type_hints(Config)
# Values of options that older versions did not have, where these are not the defaults.
_BEFORE = {
    "store": "rows", "torso": "mlp", "atari_protocol": "none", "precision": "float32",
    "updates_per_launch": 1, "priority_lag": 0, "final_evaluation": True,
}  # fmt: skip
# Fraction('1e999999999') would compute all its digits, so exponents are limited as in floats.
_HUGE_EXPONENT = re.compile(r"[eE][+-]?[\d_]{4}")


def as_fraction(value: Any) -> Any:
    """Returns a number or '1/3' as an exact Fraction, and anything else unchanged."""
    if isinstance(value, bool) or _HUGE_EXPONENT.search(str(value)):
        return value
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return value


def unknown_name(kind: str, name: str, known) -> str:
    """Returns a message for an unknown name, with the nearest known one."""
    bare = {option.lstrip("-"): option for option in known}  # dashes do not count as similarity
    near = difflib.get_close_matches(name.lstrip("-"), bare, n=1)
    return f"unknown {kind} {name!r}" + (f": did you mean {bare[near[0]]}?" if near else "")
