"""Replay buffer benchmark: adds and samples per second, by number of rows and observation size.

python benchmarks/bench_replay.py
python benchmarks/bench_replay.py --rows 1000000 --batch-sizes 128 256
"""

import time

import numpy as np

from fastdqn.bench.repeats import Effort
from fastdqn.bench.replay_speed import measure_adding, measure_copy, measure_sampling
from fastdqn.bench.results import Figure
from fastdqn.bench.synthetic_data import fill_replay
from fastdqn.envs import EnvFacts
from fastdqn.replay import PrioritizedSampler, Replay, Ring, RowStore, UniformSampler
from harness import count, effort_of, main_of, parser, save, show


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--rows", type=count, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    asked.add_argument("--obs-size", type=count, default=4, help="float32 values per observation")
    asked.add_argument("--num-envs", type=count, default=64)
    asked.add_argument("--batch-sizes", type=count, nargs="+", default=[128])
    asked.add_argument("--n-steps", type=count, default=1)
    asked.add_argument("--prioritized", action="store_true")
    args = asked.parse_args()
    figures = [measure_copy(effort_of(args))]
    for rows in args.rows:
        figures += measure_rows(rows, args, effort_of(args))
    save(args, show("replay alone", figures), threads=None)


def measure_rows(rows: int, args, effort: Effort) -> list[Figure]:
    """Measures a full replay buffer."""
    facts = EnvFacts((args.obs_size,), np.dtype(np.float32), 1.0, 2, 0)
    per_lane = max(args.n_steps + 1, rows // args.num_envs)
    replay = Replay(
        Ring(args.num_envs, per_lane),
        RowStore(args.num_envs, per_lane, facts.obs_shape, facts.obs_dtype),
        PrioritizedSampler(args.num_envs * per_lane, 0.5, lambda steps: 0.4, 1)
        if args.prioritized
        else UniformSampler(1),
        n_steps=args.n_steps,
    )
    fill_replay(replay, facts, per_lane)
    clock = time.perf_counter
    figures = measure_adding(replay, args.num_envs, facts, effort, clock)
    for size in args.batch_sizes:
        figures += measure_sampling(replay, size, effort)
    return figures


if __name__ == "__main__":
    main_of(main)
