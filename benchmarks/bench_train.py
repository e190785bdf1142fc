"""Training benchmark: microseconds per transition, by phase, over sweeps of three settings.

    python benchmarks/bench_train.py
    python benchmarks/bench_train.py --sweep num_envs

Workload C (cartpole-cleanrl). Each sweep changes one setting, at a constant replay ratio: num_envs;
rows of the replay buffer, which starts full; values per observation, of an environment that
returns random observations.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.bench.repeats import Effort
from fastdqn.bench.results import phase_table, table
from fastdqn.bench.training_speed import Trained, measure_training
from fastdqn.config.presets import PRESETS
from harness import console, effort_of, main_of, parser, save

NUM_ENVS = (1, 4, 16, 64, 256, 1024, 4096)
ROWS = (10**4, 10**5, 10**6, 10**7)
OBS_SIZES = (4, 64, 1024, 8192)
LANES = 64
THREADS = 1


class RandomNumbers(VectorEnv):
    """Returns obs_size random values per sub-environment, from a table. Episodes have 100 steps."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, obs_size: int = 4, **_: Any):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (obs_size,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        rng = np.random.default_rng(0)
        self._table = rng.standard_normal((8, num_envs, obs_size), np.float32)
        self._reward = np.ones(num_envs, np.float32)
        self._never = np.zeros(num_envs, np.bool_)
        self._t = 0

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return self._table[0], {}

    def step(self, actions):
        self._t += 1
        over = self._never | (self._t % 101 == 100)
        return self._table[self._t % 8], self._reward, self._never, over, {}


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument(
        "--sweep", choices=("num_envs", "rows", "obs_size"), nargs="+", help="sweeps; default: all"
    )
    args = asked.parse_args()
    effort = effort_of(args)
    sweeps: dict[str, list[dict]] = {}
    for name in args.sweep or ("num_envs", "rows", "obs_size"):
        sweeps[name] = []
        for value in {"num_envs": NUM_ENVS, "rows": ROWS, "obs_size": OBS_SIZES}[name]:
            trained = measure(name, value, effort)
            console.print(table(f"{name} {value:,}", [trained.figure]))
            console.print(phase_table("phases", trained.phases, trained.steps))
            sweeps[name].append({name: value, **_row(trained)})
    save(args, [], threads=THREADS, sweeps=sweeps)


def measure(name: str, value: int, effort: Effort) -> Trained:
    """Measures one point of a sweep."""
    config = PRESETS["cartpole-cleanrl"].replace(num_envs=LANES, device="cpu", threads=THREADS)
    if name == "num_envs":
        # The buffer needs at least two rows per environment, so it must grow beyond 5,000.
        rows = max(config.buffer_size, 4 * value)
        return measure_training(config.replace(num_envs=value, buffer_size=rows), effort)
    if name == "rows":
        return measure_training(config.replace(buffer_size=value), effort, filled=True)
    return measure_training(config, effort, envs=RandomNumbers(LANES, value))


def _row(trained: Trained) -> dict[str, Any]:
    """Returns steps/s, and microseconds per transition by phase."""
    return {
        "steps_per_second": trained.figure.rate.median,
        "steps_per_second_min": trained.figure.rate.least,
        "steps_per_second_max": trained.figure.rate.most,
        "us_per_step": {
            phase: 1e6 * seconds / trained.steps for phase, seconds in trained.phases.items()
        },
    }


if __name__ == "__main__":
    main_of(main)
