"""Actors on a Ray cluster: cost of a transition, speed of blocks, and how far actors scale.

    python benchmarks/bench_remote.py
    python benchmarks/bench_remote.py --part cost --envs CartPole-v1 LunarLander-v3
    python benchmarks/bench_remote.py --part scale --actors 1 2 4 8

cost: what a transition costs by local stepping, and with one actor.
blocks: blocks of pictures that the learner stores and does not learn from, in MB/s.
scale: a cluster of two nodes on this machine, whose environments sleep, so that actors do not
compete for cores. The model takes its rates from the run with the fewest actors, and the others
check it.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from rich.table import Table

import fastdqn
from fastdqn.cluster.connection import ray_problem
from harness import console, count, fail, main_of, parser, save
from remote_model import rates_of

# Environments of an actor, and seconds of a step of all of them in the part scale.
_EACH, _SLEEP = 32, 0.02
# Numbers of actors whose speed the model predicts.
_PREDICTED = (1, 10, 100, 1_000)


class Pictures(gymnasium.Env):
    """Pictures of the size of Atari's, which cost nothing to make."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = spaces.Discrete(4)
        self._picture, self._t = np.zeros((4, 84, 84), np.uint8), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._picture, {}

    def step(self, action):
        self._t += 1
        return self._picture, 1.0, self._t % 100 == 0, False, {}


class SleepingVectorEnv(VectorEnv):
    """Environments whose step takes time, and no processor."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.single_action_space = spaces.Discrete(4)
        self.observation_space = spaces.Box(-1.0, 1.0, (num_envs, 8), np.float32)
        self.action_space = spaces.MultiDiscrete([4] * num_envs)
        self._obs = np.zeros((num_envs, 8), np.float32)

    def reset(self, *, seed=None, options=None):
        return self._obs, {}

    def step(self, actions):
        time.sleep(_SLEEP)
        flags = np.zeros(self.num_envs, np.bool_)
        return self._obs, np.ones(self.num_envs), flags, flags, {}


class Sleeping(gymnasium.Env):
    """The single form of SleepingVectorEnv."""

    def __init__(self):
        self.observation_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(8, np.float32), {}

    def step(self, action):
        time.sleep(_SLEEP)
        return np.zeros(8, np.float32), 1.0, False, False, {}


if __name__ == "bench_remote":  # as the processes of actors import it, and this one
    gymnasium.register("BenchPictures-v0", "bench_remote:Pictures")
    gymnasium.register(
        "BenchSleeping-v0", "bench_remote:Sleeping",
        vector_entry_point="bench_remote:SleepingVectorEnv",
    )  # fmt: skip


def train(env_id: str, steps: int, **options: Any) -> dict[str, Any]:
    """Trains without evaluations and checkpoints. Returns the summary."""
    with tempfile.TemporaryDirectory() as folder:
        return fastdqn.train(
            fastdqn.Config(
                env_id=env_id, total_timesteps=steps, eval_frequency=0, final_evaluation=False,
                tensorboard=False, checkpoint_seconds=None, run_dir=str(Path(folder, "run")),
            ).replace(**options)
        ).summary  # fmt: skip


def cost(args) -> list[dict[str, Any]]:
    """What a transition costs, locally and with an actor, in microseconds."""
    rows = []
    for env_id in args.envs:
        options = {"num_envs": _EACH, "train_frequency": 64, "learning_starts": 1_000}
        local = train(env_id, args.steps, **options)
        remote = train(env_id, args.steps, actors=1, **options)
        steps, made = local["total_steps"], remote["actors"]
        phases, theirs = local["phase_seconds"], remote["phase_seconds"]
        busy = sum(seconds for name, seconds in theirs.items() if name != "actors")
        rows.append(
            {
                "part": "cost", "env": env_id,
                "local_act_env_store_us": 1e6 * (phases["act"] + phases["env"] + phases["store"])
                / steps,
                "actor_us": 1e6 * made["acting_seconds"] / made["transitions_produced"],
                "learner_store_us": 1e6 * theirs["store"] / remote["total_steps"],
                "learner_busy_us": 1e6 * busy / remote["total_steps"],
                "learner_waits_us": 1e6 * theirs["actors"] / remote["total_steps"],
            }
        )  # fmt: skip
    return rows


def blocks(args) -> list[dict[str, Any]]:
    """How many bytes of blocks the learner stores in a second."""
    summary = train(
        "bench_remote:BenchPictures-v0", 20_000, actors=1, num_envs=_EACH, buffer_size=10_000,
        store="rows", hidden_sizes=(8,), learning_starts=19_000, train_frequency=1_000,
        batch_size=32,
    )  # fmt: skip
    seconds = sum(summary["phase_seconds"].values())
    made = summary["actors"]
    return [
        {
            "part": "blocks", "mb_per_second": made["bytes"] / seconds / 1e6,
            "bytes_per_transition": made["bytes"] / made["transitions_produced"],
            "transitions_per_second": summary["total_steps"] / seconds,
            "store_mb_per_second": made["bytes"] / summary["phase_seconds"]["store"] / 1e6,
            "actor_mb_per_second": made["bytes"] / made["acting_seconds"] / 1e6,
        }
    ]  # fmt: skip


def scale(args) -> list[dict[str, Any]]:
    """Transitions per second of several numbers of actors, and what the model expects."""
    rows, model = [], None
    with two_nodes(max(args.actors)) as address:
        for actors in sorted(args.actors):
            summary = train(
                "bench_remote:BenchSleeping-v0", 6_000 * actors, actors=actors,
                actor_num_envs=_EACH, ray_address=address, buffer_size=200_000,
                learning_starts=1_000, train_frequency=64,
            )  # fmt: skip
            model = model or rates_of(summary)
            measured = summary["total_steps"] / sum(summary["phase_seconds"].values())
            rows.append(
                {
                    "part": "scale", "actors": actors, "measured_per_second": measured,
                    "expected_per_second": model.expected(actors),
                    "ratio": measured / model.expected(actors),
                    "actors_wait": summary["actors"]["waiting_share"],
                }
            )  # fmt: skip
    assert model is not None
    rows += [
        {
            "part": "scale",
            "actors": actors,
            "expected_per_second": model.expected(actors),
            "expected_mb_per_second": model.traffic(actors) / 1e6,
        }
        for actors in _PREDICTED
        if actors > max(args.actors)
    ]
    rows.append({"part": "model", **model._asdict(), "saturation_actors": model.saturation})
    return rows


@contextmanager
def two_nodes(actors: int) -> Iterator[str]:
    """A cluster of two nodes on this machine, with a CPU for each actor. Yields its address."""
    import ray
    from ray.cluster_utils import Cluster

    folder = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.getenv("PYTHONPATH")]))
    cluster = Cluster()
    try:
        for cpus in (actors - actors // 2, max(1, actors // 2)):
            cluster.add_node(num_cpus=cpus)
        ray.init(cluster.address, log_to_driver=False)
        yield str(cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()


def show(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*names)
    for row in rows:
        values = [row.get(name, "") for name in names]
        table.add_row(*(f"{v:,.3g}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--part", choices=("cost", "blocks", "scale", "all"), default="all")
    made.add_argument("--envs", nargs="+", default=["CartPole-v1", "LunarLander-v3"])
    made.add_argument("--actors", nargs="+", type=count, default=[1, 2, 4, 8])
    made.add_argument("--steps", type=count, default=40_000, help="transitions of the part cost")
    args = made.parse_args()
    if line := ray_problem():
        fail(line)
    folder = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.getenv("PYTHONPATH")]))
    rows = []
    for part in ("cost", "blocks", "scale"):
        if args.part in (part, "all"):
            found = {"cost": cost, "blocks": blocks, "scale": scale}[part](args)
            rows += found
            show(found)
    save(args, rows, 1)


if __name__ == "__main__":
    main_of(main)
