"""Memory of a full replay buffer of stacked frames, compared with the estimate.

python benchmarks/bench_frames.py --rows 1000000
"""

import resource
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from fastdqn.bench.synthetic_data import fill_replay
from fastdqn.builders import agent
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.memory_estimate import replay_bytes
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from harness import count, main_of, parser


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--rows", type=count, default=10**6)
    asked.add_argument("--num-envs", type=count, default=16)
    asked.add_argument("--obs-shape", type=count, nargs="+", default=[4, 84, 84])
    args = asked.parse_args()
    facts = EnvFacts(tuple(args.obs_shape), np.dtype(np.uint8), 1 / 255, 6, 0)
    facts = facts._replace(stack=facts.obs_shape[0])
    asked_for = Config(
        num_envs=args.num_envs, buffer_size=args.rows, batch_size=32, train_frequency=Fraction(4),
        store="frames",
    )  # fmt: skip
    config = resolve(asked_for, facts, "sync").config
    print(f"estimate, with a batch: {replay_bytes(config, facts) / 1e9:.3f} GB")
    before = resident_bytes()
    replay = agent.make_replay(config, facts)
    began = time.perf_counter()
    fill_replay(replay, facts, replay.ring.rows)
    took, taken = time.perf_counter() - began, resident_bytes() - before
    print(f"resident after filling {len(replay):,} rows in {took:.1f} s: {taken / 1e9:.3f} GB")
    print(
        f"peak resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.3f} GB"
    )


def resident_bytes() -> int:
    """Returns the resident memory of this process. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS: this needs Linux")


if __name__ == "__main__":
    main_of(main)
