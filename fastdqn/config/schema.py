"""Config: all options of a run in one frozen dataclass."""

import difflib
import json
import math
import re
import warnings
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replaced
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from fastdqn.config import limits
from fastdqn.config.option import (
    Before,
    Changes,
    Flag,
    Fused,
    Group,
    Limit,
    Part,
    Renamed,
    Stored,
    options_of,
)

_COUNT = Limit(1, 1 << 40)
_SHARE = Limit(0, 1)
_POSITIVE = Limit(0, open=True)


@dataclass(frozen=True)
class RunOptions:
    """Options that Config shares with the options of a tabular run.

    Steps are environment transitions, summed over all environments.
    """

    env_id: Annotated[str, Group("environment")] = "CartPole-v1"
    """Registered Gymnasium id. `module:Name-v0` imports the module first."""
    env_kwargs: Annotated[dict[str, Any], Group("environment")] = field(default_factory=dict)
    """Arguments of the environment's constructor, such as size=8 slippery=False."""
    wrapper: Annotated[tuple[str, ...], Group("environment")] = ()
    """Wrappers of each sub-environment, the innermost first: my_package:MyWrapper, or one of
    Gymnasium's."""
    preset: Annotated[str, Group("environment")] = "default"
    """Preset that the settings started from. It only labels the run."""
    num_envs: Annotated[int, Limit(1, 1 << 20), Group("run"), Changes()] = 16
    """Environments that step in parallel."""
    total_timesteps: Annotated[int | None, _COUNT, Group("run")] = 500_000
    """Environment steps after which the run ends. None: only total_episodes ends it."""
    total_episodes: Annotated[int | None, _COUNT, Group("run")] = None
    """Episodes after which the run ends, if total_timesteps does not end it first."""
    seed: Annotated[int, Limit(0, (1 << 63) - 1), Group("run")] = 1
    """Seed of environments, exploration, sampling and initial weights."""
    vectorization: Annotated[
        Literal["auto", "compiled", "native", "sync", "workers", "async", "envpool"], Group("run")
    ] = "auto"
    """How environments are vectorized. auto: compiled if it gives the results of sync, else the
    environment's own vector class (native), else sync. workers: a few processes with many
    environments each. async: a process each."""
    workers: Annotated[int | None, Limit(1, 1 << 10), Group("run"), Changes()] = None
    """Worker processes of --vectorization workers. None: the usable cores minus one, or one for
    each batch of --env-batch-size."""
    # Python's locks wait for at most 292 years, counted in nanoseconds.
    max_step_seconds: Annotated[float | None, Limit(0, 1e9, open=True), Group("run"), Changes()] = (
        300.0
    )
    """Timeout in seconds of a reset, of a step, and of making environments. None: no timeout."""
    restart_envs: Annotated[
        int, Limit(0, 1 << 20), Renamed("restart_lanes"), Group("run"), Changes()
    ] = 0
    """Failed worker processes that may be restarted in total. Their episodes end as
    truncated. One more failure ends the run."""
    gamma: Annotated[float, _SHARE, Group("learning")] = 0.99
    """Discount factor per step."""
    exploration_initial_eps: Annotated[float | None, _SHARE, Group("exploration"), Changes()] = None
    """Initial epsilon. None: 1, or with --noisy the final epsilon."""
    exploration_final_eps: Annotated[float | None, _SHARE, Group("exploration"), Changes()] = None
    """Final epsilon. None: 0.05, or with --noisy 0."""
    exploration_fraction: Annotated[float, _SHARE, Group("exploration"), Changes()] = 0.2
    """Fraction of total_timesteps over which epsilon decays linearly."""
    exploration_decay: Annotated[
        float | None, Limit(0, 1, open=True), Group("exploration"), Changes()
    ] = None
    """Factor of epsilon per finished episode, in place of the linear decay."""
    eval_frequency: Annotated[int, Limit(0, 1 << 40), Group("evaluation"), Changes()] = 10_000
    """Environment steps between greedy evaluations. 0: none."""
    eval_episodes: Annotated[int, Limit(1, 1 << 20), Group("evaluation"), Changes()] = 20
    """Episodes per evaluation, in parallel."""
    eval_max_steps: Annotated[int | None, _COUNT, Group("evaluation"), Changes()] = None
    """Maximum steps of an evaluation episode. None: the environment's own limit, else 27,000."""
    stop_at_return: Annotated[float | None, Limit(-math.inf), Group("evaluation"), Changes()] = None
    """Stop early once two evaluations on new seeds reach this mean return."""
    run_dir: Annotated[str | None, Group("output")] = None
    """Run folder, new or empty. None: runs/ENV__PRESET__SEED__TIME."""
    on_disk_error: Annotated[Literal["stop", "continue"], Group("output"), Changes()] = "stop"
    """When a file cannot be written: stop the run, or continue and retry. Failing to write at the
    end is always an error."""
    log_frequency: Annotated[int | None, _COUNT, Group("output"), Changes()] = None
    """Environment steps between metrics rows. None: 1/200 of the budget."""
    tensorboard: Annotated[bool | None, Group("output"), Changes()] = None
    """Write TensorBoard events. None: if the extra is installed."""

    def replace(self, /, **changes) -> Self:
        """Returns a copy with some options changed. Raises ConfigError for an unknown one."""
        changes = current_names(changes)
        known = options_of(type(self))
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise ConfigError([unknown_name("option", name, known) for name in unknown])
        return replaced(self, **changes)

    def problems(self) -> list[str]:
        """Returns a message for each mistake that needs no environment to be found."""
        raise NotImplementedError

    def type_problems(self) -> list[str]:
        """Returns a message for each option whose value does not have its declared type."""
        return limits.type_problems(vars(self), options_of(type(self)))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parses what to_json() of this or an earlier version wrote. Raises ConfigError."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"config.json is not JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise ConfigError(["config.json is not an object of options"])
        values = current_names(values, warns=False)
        before = {
            name: option.before
            for name, option in options_of(cls).items()
            if option.before != option.default
        }
        lists = {name: tuple(each) for name, each in values.items() if isinstance(each, list)}
        config = cls().replace(**before | values | lists)
        if lines := config.problems():
            raise ConfigError(lines)
        return config


@dataclass(frozen=True)
class Config(RunOptions):
    """Options of a run. None and auto are resolved once, printed, and written to config.json."""

    init_weights: Annotated[str | None, Group("start")] = None
    """Run folder or weights file whose network this run starts from, the best of a run."""
    from_run: Annotated[str | None, Flag("from"), Group("start")] = None
    """Run folder whose last checkpoint this run starts from, under its own options."""
    from_parts: Annotated[tuple[Literal["weights", "optimizer", "replay"], ...], Group("start")] = (
        "weights",
        "optimizer",
        "replay",
    )
    """What to take from the run of --from: weights, optimizer state, replay buffer."""
    prefill: Annotated[tuple[str, ...], Group("start")] = ()
    """Recorded episodes that the replay holds before the first step: .npz files, run folders, or
    minari:ID (extra minari). They count for learning_starts."""
    offline: Annotated[bool, Group("start")] = False
    """Learn from --prefill or --from alone. Steps are counted, but only evaluations step an
    environment: total_timesteps / train_frequency updates are made."""
    env_batch_size: Annotated[int | None, Limit(1, 1 << 20), Group("run")] = None
    """Sub-environments that a step waits for, with workers, async, envpool and Atari. None: all, or
    half of them with --double-buffering."""
    double_buffering: Annotated[bool, Group("run")] = False
    """Step two halves of an even number of environments in strict turns, with workers. Equal seeds
    give equal results."""
    actors: Annotated[int, Limit(0, 1 << 16), Group("actors")] = 0
    """Processes of a Ray cluster that step the environments (extra ray). 0: this process does."""
    actor_num_envs: Annotated[int | None, Limit(1, 1 << 20), Group("actors")] = None
    """Environments of each actor, whose sum num_envs then is. None: an equal share of num_envs."""
    ray_address: Annotated[str, Group("actors"), Changes()] = "local"
    """Ray cluster of the actors: HOST:PORT of its head node, or auto for one that runs on this
    machine. local: one that is started for this run."""
    actor_block_steps: Annotated[int | None, Limit(1, 1 << 16), Group("actors"), Changes()] = None
    """Steps of an actor's environments that travel together. None: enough for 512 transitions, at
    most 64."""
    actor_blocks: Annotated[int, Limit(1, 1 << 10), Group("actors"), Changes()] = 2
    """Blocks of each actor that may be requested and not yet used. Then the actor waits."""
    actor_weights_frequency: Annotated[int, _COUNT, Group("actors"), Changes()] = 1
    """Least updates between two sets of weights that actors receive, each with a request."""
    actor_restarts: Annotated[int, Limit(0, 1 << 20), Group("actors"), Changes()] = 10
    """Lost actors that may be started anew in total. One more ends the run."""
    actor_priorities: Annotated[bool, Group("actors")] = False
    """With --prioritized: actors compute the initial priorities of transitions (Ape-X)."""
    atari_protocol: Annotated[
        Literal["auto", "dqn2015", "machado2018", "none"], Before("none"), Group("run")
    ] = "auto"
    """Atari settings, which env_kwargs may override. auto: machado2018 for ALE ids."""

    learning_rate: Annotated[float, _POSITIVE, Group("learning"), Changes()] = 5e-4
    """Learning rate of the optimizer, or its first value with --learning-rate-schedule."""
    optimizer: Annotated[str, Part("optimizer"), Fused("adam"), Group("learning")] = "adam"
    """Optimizer. rmsprop: centered, with the settings of Mnih et al. 2015. adamw, radam: those of
    torch."""
    adam_epsilon: Annotated[float, _POSITIVE, Group("learning")] = 1e-8
    """Epsilon of adam, adamw and radam, added to the square root of the second moment."""
    learning_rate_schedule: Annotated[
        str, Part("learning_rate_schedule"), Group("learning"), Changes()
    ] = "constant"
    """Schedule of the learning rate. linear, cosine: to final_learning_rate at total_timesteps.
    piecewise: linear between the points of learning_rate_steps."""
    final_learning_rate: Annotated[float, Limit(0, 1e30), Group("learning"), Changes()] = 0.0
    """Final learning rate of a linear or cosine schedule."""
    learning_rate_steps: Annotated[tuple[int, ...], _COUNT, Group("learning"), Changes()] = ()
    """Environment steps of the points of a piecewise schedule, ascending. The first point is
    learning_rate at step 0."""
    learning_rate_values: Annotated[
        tuple[float, ...], Limit(0, 1e30), Group("learning"), Changes()
    ] = ()
    """Learning rates at learning_rate_steps."""
    buffer_size: Annotated[int, _COUNT, Group("learning")] = 100_000
    """Capacity of the replay buffer in transitions, summed over environments."""
    store: Annotated[
        Literal["auto", "rows", "frames", "device"], Before("rows"), Group("learning")
    ] = "auto"
    """What a row of the replay stores: the whole observation, or only its newest frame. device: in
    the memory of a CUDA device. auto: device for pictures that fit there, frames where the
    environment declares frame stacking, else rows."""
    learning_starts: Annotated[int, Limit(0, 1 << 40), Group("learning")] = 1_000
    """Environment steps before the first update."""
    replay: Annotated[bool, Group("learning")] = True
    """Sample transitions from a replay buffer. --no-replay: learn from each transition once, in
    order."""
    batch_size: Annotated[int, Limit(1, 1 << 24), Group("learning"), Changes()] = 128
    """Transitions per update."""
    train_frequency: Annotated[Fraction, Limit(1e-6, 1 << 40), Group("learning"), Changes()] = (
        Fraction(4)
    )
    """Environment steps per update, for any num_envs. It may be a fraction: 1/2 makes two updates
    per step."""
    target_network: Annotated[bool, Group("learning")] = True
    """Use a target network. --no-target-network: bootstrap from the online network."""
    target_network_frequency: Annotated[int, _COUNT, Group("learning"), Changes()] = 2_000
    """Environment steps between target network updates. Updates that fall due between two gradient
    steps are applied together."""
    tau: Annotated[float, Limit(0, 1, open=True), Group("learning"), Changes()] = 1.0
    """Polyak coefficient of a target network update. 1 is a hard update."""
    n_steps: Annotated[int, Limit(1, 1 << 16), Group("learning")] = 1
    """Rewards summed before bootstrapping."""
    max_grad_norm: Annotated[float | None, _POSITIVE, Group("learning"), Changes()] = 10.0
    """Maximum global norm of the gradient, which is clipped to it. None: no clipping."""
    loss: Annotated[str, Part("loss"), Fused("mse", "huber"), Group("learning")] = "mse"
    """Loss of the TD error of scalar values: mse is its square without a factor of 1/2, huber
    includes the factor."""

    backup: Annotated[
        str, Part("backup"), Fused("auto", "max", "double", "munchausen"), Group("techniques")
    ] = "auto"
    """Bootstrap target. auto: munchausen, double or max, by the options of these names."""
    double: Annotated[bool, Group("techniques")] = True
    """Double DQN: the online network selects the action that the target network evaluates."""
    dueling: Annotated[bool, Stored(), Group("techniques")] = True
    """Dueling head: state value plus centered advantages."""
    dueling_gradient_scale: Annotated[float, Limit(0, 1e3), Fused(1.0), Group("techniques")] = 1.0
    """Factor of the gradient from the dueling streams into the shared layers. Wang et al. 2016 use
    0.7071, 1/sqrt(2)."""
    munchausen: Annotated[bool, Group("techniques")] = False
    """Munchausen DQN: a soft policy, with its scaled log-probability as a bonus. It replaces
    --double and excludes categorical values."""
    munchausen_alpha: Annotated[float, _SHARE, Group("techniques")] = 0.9
    """Factor of the Munchausen bonus."""
    # The temperature divides values in float32.
    munchausen_temperature: Annotated[float, Limit(1e-6, 1e6), Group("techniques")] = 0.03
    """Temperature of the Munchausen policy, in units of return."""
    munchausen_floor: Annotated[float, Limit(-1e9, 0), Group("techniques")] = -1.0
    """Lower bound of the scaled log-probability in the Munchausen bonus."""
    value: Annotated[
        str,
        Part("value"),
        Stored(),
        Fused("scalar", "categorical", "quantile", "implicit-quantile", "hl-gauss"),
        Group("techniques"),
    ] = "scalar"
    """What the network predicts: expected return, atoms (C51), quantiles (QR-DQN), sampled
    quantiles (IQN), or a histogram of expected returns (hl-gauss)."""
    num_atoms: Annotated[int, Limit(2, 1 << 16), Group("techniques")] = 51
    """Atoms of categorical values, or bins of hl-gauss values, from v_min to v_max."""
    v_min: Annotated[float, Limit(-1e30, 1e30), Group("techniques")] = -10.0
    """Smallest discounted return that categorical and hl-gauss values can represent."""
    v_max: Annotated[float, Limit(-1e30, 1e30), Group("techniques")] = 10.0
    """Largest discounted return that categorical and hl-gauss values can represent."""
    hl_gauss_sigma: Annotated[float, Limit(0, 1e6, open=True), Group("techniques")] = 0.75
    """Standard deviation of the Gaussian of hl-gauss values, in bins."""
    num_quantiles: Annotated[int, Limit(1, 1 << 16), Group("techniques")] = 32
    """Quantiles of quantile values."""
    num_fractions: Annotated[int, Limit(1, 1 << 16), Group("techniques")] = 8
    """Samples of the prediction of implicit quantiles (N). The paper uses 64 on Atari."""
    num_target_fractions: Annotated[int, Limit(1, 1 << 16), Group("techniques")] = 8
    """Samples of the target of implicit quantiles (N'). The paper uses 64 on Atari."""
    num_policy_fractions: Annotated[int, Limit(1, 1 << 16), Group("techniques")] = 32
    """Samples of implicit quantiles that select the greedy action (K)."""
    noisy: Annotated[bool, Stored(), Group("techniques")] = False
    """Noisy layers after the first hidden layer: learned noise explores in place of epsilon."""
    noisy_sigma: Annotated[float, Limit(0, 1e6), Stored(), Group("techniques")] = 0.5
    """Initial standard deviation of noisy layers (sigma_0), divided by the square root of their
    inputs."""
    sampler: Annotated[str, Part("sampler"), Group("techniques")] = "auto"
    """Sampler of the replay. auto: uniform, or by --prioritized and --no-replay. recent: newer
    transitions more often."""
    recency: Annotated[float, Limit(1, 1e9), Group("techniques")] = 10.0
    """How many times as often the recent sampler draws the newest transition as the oldest."""
    prioritized: Annotated[bool, Group("techniques")] = False
    """Prioritized replay: sample in proportion to the last TD error, with no uniform share."""
    priority_exponent: Annotated[float, _SHARE, Group("techniques")] = 0.5
    """Exponent of priorities. 0 samples uniformly."""
    importance_exponent: Annotated[float, _SHARE, Group("techniques")] = 0.4
    """Initial exponent of the importance sampling weights. It rises to 1 over total_timesteps."""
    part_kwargs: Annotated[dict[str, Any], Stored(), Group("techniques")] = field(
        default_factory=dict
    )
    """Other arguments of parts, such as optimizer.weight_decay=0.1."""

    torso: Annotated[
        str,
        Part("torso"),
        Stored(),
        Before("mlp"),
        Fused("auto", "mlp", "minatar"),
        Group("network"),
    ] = "auto"
    """Network before the head: an MLP, or convolutions of Nature 2015, data-efficient Rainbow, or
    MinAtar. auto: nature for uint8 [K, 84, 84], minatar for [10, 10, C], else mlp."""
    hidden_sizes: Annotated[
        tuple[int, ...] | None, Limit(1, 1 << 20), Stored(), Group("network")
    ] = None
    """Units of each hidden layer. None: 512 after nature, 256 after data-efficient, 128 after
    minatar, else 120 84."""
    hidden_activation: Annotated[
        Literal["relu", "tanh", "silu", "gelu", "elu", "leaky-relu"],
        Stored(),
        Fused("relu"),
        Group("network"),
    ] = "relu"
    """Activation of hidden layers. Convolutions keep relu."""
    normalize_observation: Annotated[bool, Stored(), Group("network")] = False
    """Normalize each observation feature by its running mean and standard deviation."""
    normalize_reward: Annotated[bool, Stored(), Group("network")] = False
    """Divide rewards by the running standard deviation of the discounted return. Logged returns
    stay unscaled."""

    exploration: Annotated[str, Part("exploration"), Group("exploration"), Changes()] = "schedule"
    """schedule: one epsilon that decays. ladder: a constant epsilon for each environment
    (Ape-X)."""
    ladder_epsilon: Annotated[float, _SHARE, Group("exploration"), Changes()] = 0.4
    """Base of the ladder: environment i explores with ladder_epsilon^(1 + ladder_alpha i/(num_envs
    - 1))."""
    ladder_alpha: Annotated[float, Limit(0, 1e6), Group("exploration"), Changes()] = 7.0
    """Exponent of the ladder: the larger, the less the last environment explores."""
    exploration_zeta: Annotated[float | None, Limit(1, 100), Group("exploration")] = None
    """Repeat a random action for k steps with probability proportional to k^-zeta (ez-greedy, whose
    paper uses 2). None: no repeats."""

    final_evaluation: Annotated[bool | None, Before(True), Group("evaluation"), Changes()] = None
    """Evaluate the best weights at the end, on new seeds. None: yes, unless eval_frequency is 0.
    Without evaluations no environments are made for them."""

    ranks: Annotated[int, Limit(1, 1 << 10), Group("performance")] = 1
    """Processes that train this run together. torchrun starts them and sets their number."""
    device: Annotated[str, Fused("auto", "cpu"), Group("performance")] = "auto"
    """cpu, cuda, cuda:1, and so on. auto: cuda if available and the network is large, else cpu."""
    threads: Annotated[int | None, Limit(1, 256), Group("performance"), Changes()] = None
    """CPU threads of torch. None: all cores for a large network on the CPU, else 1. The fused
    learner has one thread."""
    learner: Annotated[Literal["auto", "fused", "torch"], Group("performance")] = "auto"
    """fused: compiled kernels for small MLPs and MinAtar's network on the CPU. torch: autograd.
    auto: fused where it applies."""
    capture: Annotated[
        Literal["auto", "eager", "compile", "graph", "compile-graph"],
        Fused("auto", "eager"),
        Group("performance"),
    ] = "auto"
    """How updates and policy run: eager, compiled by torch (a minute at startup), as a CUDA graph,
    or compiled in a graph. auto: graph on CUDA, eager on the CPU."""
    precision: Annotated[
        Literal["auto", "float32", "tf32", "bf16"],
        Before("float32"),
        Fused("auto", "float32"),
        Group("performance"),
    ] = "auto"
    """Precision of matrix products on CUDA: float32, TF32, or bfloat16 in the torso. auto: tf32.
    The CPU uses float32."""
    updates_per_launch: Annotated[int | None, Limit(1, 64), Before(1), Group("performance")] = None
    """Updates per CUDA graph launch, a power of two. None: as many as a step of all environments
    earns, up to 8. With --prioritized 1, since priorities would return late."""
    priority_lag: Annotated[int | None, Limit(0, 1), Before(0), Group("performance")] = None
    """Launches by which priorities return late: 0, or 1 so that no launch waits. None: 1 on CUDA, 0
    on the CPU."""

    info_keys: Annotated[tuple[str, ...], Group("output")] = ()
    """Keys of info whose numbers at episode ends are recorded, such as is_success, whose mean is
    rollout/success_rate."""
    snapshot_frequency: Annotated[int | None, _COUNT, Group("output"), Changes()] = None
    """Environment steps between weights that are kept, in snapshots/. None: no snapshots."""
    checkpoint_frequency: Annotated[int | None, _COUNT, Group("output"), Changes()] = None
    """Environment steps between checkpoints. None: only checkpoint_seconds decides."""
    checkpoint_seconds: Annotated[float | None, _POSITIVE, Group("output"), Changes()] = 60.0
    """Seconds between checkpoints. None: only checkpoint_frequency decides. One is always written
    at the end."""
    checkpoint_replay: Annotated[bool, Group("output"), Changes()] = True
    """Include the replay buffer in checkpoints. Without it a resumed run starts with an empty
    one."""
    wandb: Annotated[bool, Group("output"), Changes()] = False
    """Log to Weights & Biases (extra wandb). WANDB_MODE=offline logs into the run folder."""

    def __post_init__(self):
        object.__setattr__(self, "train_frequency", as_fraction(self.train_frequency))
        if isinstance(self.wrapper, str):
            object.__setattr__(self, "wrapper", (self.wrapper,))
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name, option in options_of(type(self)).items():
            value = getattr(self, name)
            if option.hint in (float, float | None):  # kernels and tensors need gamma=1 as 1.0
                object.__setattr__(self, name, _as_float(value))
            elif option.hint == tuple[float, ...] and isinstance(value, tuple):
                object.__setattr__(self, name, tuple(map(_as_float, value)))
        count, each = self.actors, self.actor_num_envs
        if type(count) is int and type(each) is int and count > 0 and each > 0:
            object.__setattr__(self, "num_envs", count * each)

    def problems(self) -> list[str]:
        """Returns a message for each mistake that needs no environment to be found."""
        return self.type_problems() or limits.limit_problems(vars(self), options_of(Config))

    def beyond_fused(self) -> list[str]:
        """Returns the options, with their values, that the fused learner does not support."""
        return limits.beyond_fused(vars(self), options_of(Config))

    def to_json(self) -> str:
        values = asdict(self)
        per = self.train_frequency
        values["train_frequency"] = per.numerator if per.denominator == 1 else str(per)
        return json.dumps(values, indent=2) + "\n"


@dataclass(frozen=True)
class ResolvedConfig(Config):
    """Options of a run with every None and auto resolved, as config.json holds them.

    builders.auto_options.resolve() makes them, once, before anything is built.
    """

    exploration_initial_eps: float = 1.0
    exploration_final_eps: float = 0.05
    eval_max_steps: int = 27_000
    final_evaluation: bool = True
    run_dir: str = ""
    log_frequency: int = 1
    tensorboard: bool = False
    hidden_sizes: tuple[int, ...] = ()
    actor_block_steps: int = 1
    threads: int = 1
    updates_per_launch: int = 1
    priority_lag: int = 0


# Options that may change when a run is resumed. total_timesteps may grow.
CHANGEABLE = tuple(name for name, option in options_of(Config).items() if option.changes)
# Second names of options on the command line, and the first ones.
FLAGS = {
    f"--{option.flag}": f"--{name.replace('_', '-')}"
    for name, option in options_of(Config).items()
    if option.flag
}
# Old names of options, accepted with a warning until 0.2, and the current ones.
RENAMED = {option.renamed: name for name, option in options_of(Config).items() if option.renamed}


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


# Fraction('1e999999999') would compute all its digits, so exponents are limited as in floats.
_HUGE_EXPONENT = re.compile(r"[eE][+-]?[\d_]{4}")


def _as_float(value: Any) -> Any:
    """Returns an integer that a float holds exactly as a float, and anything else unchanged."""
    return float(value) if type(value) is int and abs(value) < 1 << 53 else value


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
