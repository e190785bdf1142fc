"""Catalogue of the peers by name, which imports none of them."""

from typing import NamedTuple


class Lanes(NamedTuple):
    """Number of environments that step together, and updates made at a time.

    Bursts of updates reduce the overhead of the peers. fastdqn makes 6.4 updates per step of 64
    environments in workload C.
    """

    num_envs: int
    burst: int = 1


class Peer(NamedTuple):
    """Trainer to compare.

    Attributes:
        module: Module of this package with run(task, window) -> Outcome.
        distributions: Required packages, by their names for pip.
        lanes: Numbers of environments by workload.
        note: Differences from the workload, and changes to the trainer.
        checkout: Environment variable that names a checkout of the trainer, for one without a
            package.
    """

    module: str
    distributions: tuple[str, ...]
    lanes: dict[str, Lanes]
    note: str
    checkout: str | None = None


_EIGHT = {"C": Lanes(8, burst=8), "D": Lanes(8)}
_SIXTY_FOUR = {"C": Lanes(64), "D": Lanes(64)}
# As many environments as steps per update, so that an update follows each step of all.
_AS_UPDATES = {"C": Lanes(10, burst=8), "D": Lanes(64)}
_SB3_NOTE = (
    "Huber loss replaced by MSE; the gradient's norm is computed but max_grad_norm is infinite; "
    "no Monitor wrapper"
)

PEERS: dict[str, Peer] = {
    "fastdqn": Peer("run_fastdqn", ("fastdqn",), _SIXTY_FOUR, "preset cartpole-cleanrl"),
    "sb3-1": Peer("run_sb3", ("stable-baselines3",), {"C": Lanes(1), "D": Lanes(1)}, _SB3_NOTE),
    "sb3-8": Peer(
        "run_sb3",
        ("stable-baselines3",),
        _EIGHT,
        f"{_SB3_NOTE}; target every 496 steps; one random decision to explore for all environments",
    ),
    "sbx-8": Peer(
        "run_sbx",
        ("sbx-rl", "stable-baselines3", "jax"),
        _EIGHT,
        "both hidden layers have one size there: its network replaced by 120-84, Huber loss by "
        "MSE; no Monitor wrapper; a burst's batches are sampled at once; target every 496 "
        "steps; one random decision to explore for all environments",
    ),
    "rejax": Peer(
        "run_rejax",
        ("rejax", "gymnax", "jax"),
        {"C": Lanes(10), "D": Lanes(64)},
        "environment (gymnax), replay and learner are one XLA program; a time limit is terminal "
        "there; half the squared error, which Adam does not feel; hidden sizes cannot be given, "
        "so its agent is replaced by the same class with 120-84",
    ),
    "purejaxrl": Peer(
        "run_purejaxrl",
        ("gymnax", "flashbax", "optax", "flax", "chex", "jax"),
        {"C": Lanes(10), "D": Lanes(64)},
        "its dqn.py: environment (gymnax), replay (flashbax) and learner are one XLA program; a "
        "time limit is terminal there; scanned in two parts, warm-up and window; jax.tree_map, "
        "which JAX has removed, is replaced; D: target every 512 steps",
        checkout="PUREJAXRL",
    ),
    "tianshou": Peer(
        "run_tianshou",
        ("tianshou",),
        _AS_UPDATES,
        "Collector and update() called without its Trainer, which looks through the whole replay "
        "for NaN at each step; its target also runs the online network; D: target every 512 steps",
    ),
    "torchrl": Peer(
        "run_torchrl",
        ("torchrl", "tensordict"),
        _AS_UPDATES,
        "Collector over SerialEnv, TensorDictReplayBuffer, DQNLoss; D: target every 512 steps",
    ),
}
