"""Environment benchmark: steps/s of each vectorization, with random actions.

python benchmarks/bench_env.py --envs CartPole-v1 Acrobot-v1 --num-envs 8 64
"""

import time

from fastdqn.bench.env_speed import LANES, measure_envs
from fastdqn.envs import EnvRecipe
from harness import count, effort_of, main_of, parser, save, show


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument(
        "--envs", nargs="+", help="environment ids", default=["CartPole-v1", "Acrobot-v1"]
    )
    asked.add_argument(
        "--num-envs", type=count, nargs="+", default=list(LANES), help="numbers of environments"
    )
    args = asked.parse_args()
    rows = []
    for env_id in args.envs:
        figures = list(
            measure_envs(EnvRecipe(env_id), args.num_envs, effort_of(args), time.perf_counter)
        )
        rows += [{"env_id": env_id, **row} for row in show(env_id, figures)]
    save(args, rows, threads=None)


if __name__ == "__main__":
    main_of(main)
