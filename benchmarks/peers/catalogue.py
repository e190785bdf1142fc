"""Catalogue: the peers by name, without importing any of them."""

from typing import NamedTuple


class Peer(NamedTuple):
    """A trainer to compare.

    module  beside this file; it has run(task, window) -> Outcome
    distributions  that must be installed, as pip names them
    num_envs  lanes, by workload
    note  where what it does is not what the workload says, and what was changed in it
    """

    module: str
    distributions: tuple[str, ...]
    num_envs: dict[str, int]
    note: str


_SB3_NOTE = (
    "Huber loss replaced by MSE; the gradient's norm is computed but max_grad_norm is infinite; "
    "no Monitor wrapper"
)

PEERS: dict[str, Peer] = {
    "fastdqn": Peer("run_fastdqn", ("fastdqn",), {"C": 64, "D": 64}, "preset cartpole-cleanrl"),
    "sb3-1": Peer("run_sb3", ("stable-baselines3",), {"C": 1, "D": 1}, _SB3_NOTE),
    "sb3-8": Peer(
        "run_sb3",
        ("stable-baselines3",),
        {"C": 8, "D": 8},
        f"{_SB3_NOTE}; C: 4 updates every 40 steps; target every 496 steps; one coin decides "
        "exploration for all lanes",
    ),
    "sbx-8": Peer(
        "run_sbx",
        ("sbx-rl", "stable-baselines3", "jax"),
        {"C": 8, "D": 8},
        "both hidden layers have one size there: its network replaced by 120-84, Huber loss by "
        "MSE; no Monitor wrapper; C: 4 updates every 40 steps, sampled at once; target every 496 "
        "steps; one coin decides exploration for all lanes",
    ),
    "rejax": Peer(
        "run_rejax",
        ("rejax", "gymnax", "jax"),
        {"C": 10, "D": 64},
        "environment (gymnax), replay and learner are one XLA program; a time limit is terminal "
        "there; half the squared error, which Adam does not feel; hidden sizes cannot be given, "
        "so its agent is replaced by the same class with 120-84",
    ),
    "tianshou": Peer(
        "run_tianshou",
        ("tianshou",),
        {"C": 10, "D": 64},
        "Collector and update() called without its Trainer, which looks through the whole replay "
        "for NaN at each step; its target also runs the online network; D: target every 512 steps",
    ),
    "torchrl": Peer(
        "run_torchrl",
        ("torchrl", "tensordict"),
        {"C": 10, "D": 64},
        "Collector over SerialEnv, TensorDictReplayBuffer, DQNLoss; D: target every 512 steps",
    ),
}
