"""Overlap benchmark: duration of an iteration while environments step and the learner works.

    python benchmarks/bench_overlap.py
    python benchmarks/bench_overlap.py --part atari

waits: one environment that sleeps for some milliseconds in a worker process, and a learner that
takes as long, with one update per step. An iteration should take as long as the slower of both.
In a single process it takes their sum.
atari: ALE Pong in C++ threads, and a tiny network. The lower bound of a step is the processor time
of each part alone, divided by the number of cores.
"""

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from fastdqn.bench.env_speed import measure_stream
from fastdqn.bench.repeats import Effort, repeat
from fastdqn.bench.training_speed import Trained, measure_training
from fastdqn.config.schema import Config
from fastdqn.envs import EnvRecipe, EnvStream
from fastdqn.system.cpu_limits import usable_cores
from harness import console, effort_of, parser, save

MILLISECONDS = 5.0
PONG = Config(
    env_id="ALE/Pong-v5", preset="overlap", buffer_size=20_000, learning_starts=1_000,
    torso="mlp", hidden_sizes=(16,), batch_size=32, threads=1, dueling=False,
)  # fmt: skip


class Waiting(gymnasium.Env):
    """Environment that sleeps in every step. An episode has 50 steps."""

    observation_space = spaces.Box(-1, 1, (8,), np.float32)
    action_space = spaces.Discrete(2)
    _t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return self._obs(), {}

    def step(self, action):
        time.sleep(MILLISECONDS / 1e3)
        self._t += 1
        return self._obs(), 1.0, False, self._t >= 50, {}

    def _obs(self):
        return np.full(8, self._t / 50, np.float32)


def main() -> None:
    args = _parser().parse_args()
    effort = effort_of(args)
    parts = {"waits": _waits, "atari": _atari}
    chosen = parts if args.part is None else {args.part: parts[args.part]}
    rows = [{"part": name, **measure(effort)} for name, measure in chosen.items()]
    for row in rows:
        console.print("\n".join(f"{name:>28}  {value}" for name, value in row.items()) + "\n")
    save(args, rows, threads=1)


def _parser():
    made = parser(__doc__)
    made.add_argument("--part", choices=("waits", "atari"), help="one part; default: both")
    return made


def _waits(effort: Effort) -> dict[str, Any]:
    config = Config(
        preset="overlap", num_envs=1, train_frequency=1, hidden_sizes=(256, 256),  # pyright: ignore[reportArgumentType]
        threads=1, learning_starts=100, buffer_size=10_000, device="cpu",
    )  # fmt: skip
    batch_size = 128
    for _ in range(2):  # twice, since the duration is not exactly proportional
        learner = _train(config.replace(batch_size=batch_size), SyncVectorEnv, effort)
        update = learner.phases["learn"] / learner.updates * 1e3
        batch_size = max(8, round(batch_size * MILLISECONDS / update))
    config = config.replace(batch_size=batch_size)
    env_ms = _alone(AsyncVectorEnv([Waiting], copy=False), effort)
    together = _train(config, AsyncVectorEnv, effort)
    apart = _train(config, SyncVectorEnv, effort)
    turn, learn = 1e3 / together.turns.median, together.phases["learn"] / together.updates * 1e3
    return {
        "batch_size": batch_size,
        "env_alone_ms": round(env_ms, 3),
        "learn_ms": round(learn, 3),
        "turn_ms": round(turn, 3),
        "turn_by_the_longer": round(turn / max(env_ms, learn), 3),
        "turn_ms_in_one_process": round(1e3 / apart.turns.median, 3),
        "phases_ms": {
            name: round(1e3 * each / together.updates, 3) for name, each in together.phases.items()
        },
    }


def _train(config: Config, kind: type, effort: Effort) -> Trained:
    envs: VectorEnv = kind([Waiting] * config.num_envs, copy=False)
    try:
        return measure_training(config, effort, envs=envs)
    finally:
        envs.close()


def _alone(envs: VectorEnv, effort: Effort) -> float:
    """Returns the milliseconds of a step alone."""
    stream = EnvStream(envs)
    try:
        return 1e3 / measure_stream(stream, effort, time.perf_counter).rate.median
    finally:
        stream.close()


def _atari(effort: Effort) -> dict[str, Any]:
    """Returns milliseconds per step of one environment. core_ms are processor time."""
    lanes, cores = 16, usable_cores()
    # A step waits for half of the environments. The others step while actions are selected.
    config = PONG.replace(num_envs=lanes, env_batch_size=lanes // 2, train_frequency=lanes)
    trained = measure_training(config, effort)
    stream = EnvStream(EnvRecipe(config.env_id).make(lanes))
    env = _core_ms(lambda: _random_step(stream), effort)
    stream.close()
    # Act and learn run on one thread, so without other work their time is their processor time. It
    # is measured with the results of all environments ready before the learner starts.
    rest = sum(trained.phases[name] for name in ("act", "sample", "learn", "store"))
    wall = 1e3 * trained.seconds / trained.steps
    least = (env + 1e3 * rest / trained.steps) / cores
    return {
        "lanes": lanes,
        "env_core_ms": round(env, 4),
        "act_learn_core_ms": round(1e3 * rest / trained.steps, 4),
        "wall_ms": round(wall, 4),
        "wall_by_the_least": round(wall / least, 3),
        "phases": {name: round(each, 3) for name, each in trained.phases.items()},
    }


def _random_step(stream: EnvStream) -> int:
    if not len(stream.lanes) or stream.env_calls.seed is None:
        stream.start(seed=1)
    stream.send(np.random.default_rng(0).integers(stream.facts.num_actions, size=stream.num_ready))
    return len(stream.recv().lanes)


def _core_ms(call, effort: Effort) -> float:
    return 1e3 / repeat(call, effort, time.process_time).median


if __name__ == "__main__":
    main()
