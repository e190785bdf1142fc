"""The learner alone: an update of workload C, beside the same update in plain torch, in turns.

    python benchmarks/bench_learner.py
    python benchmarks/bench_learner.py --compile --batch-sizes 32 128 512 2048

Plain torch: modules, torch.optim.Adam and autograd, as CleanRL's dqn.py writes it. The two take
turns, so that their ratio holds on a noisy machine.
"""

from collections.abc import Callable

import torch
from harness import console, count, effort_of, main_of, parser, save, show
from torch import nn

from fastdqn.config import Config
from fastdqn.measure.figures import Figure
from fastdqn.measure.learning import learner_on
from fastdqn.measure.repeat import Effort, Rate, repeat
from fastdqn.presets import PRESETS
from fastdqn.resolve import preview


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--batch-sizes", type=count, nargs="+", default=[32, 128, 512, 2048])
    asked.add_argument("--compile", action="store_true", help="also the compiled update")
    asked.add_argument("--threads", type=count, default=1)
    args = asked.parse_args()
    torch.set_num_threads(args.threads)
    captures = ("eager", "compile") if args.compile else ("eager",)
    figures = []
    for size in args.batch_sizes:
        config = PRESETS["cartpole-cleanrl"].replace(batch_size=size, device="cpu")
        own = measure_update(config, captures, effort_of(args))
        figures += own
        plain, eager = (figure.rate.median for figure in own[:2])
        console.print(f"batch {size}: fastdqn, eager / plain torch: {eager / plain:.2f}")
    rows = show(f"one update of workload C, {args.threads} thread(s)", figures)
    save(args, rows, args.threads)


def measure_update(config: Config, captures: tuple[str, ...], effort: Effort) -> list[Figure]:
    """Updates/s of plain torch and of each capture, repeat by repeat in turns."""
    resolved, facts = preview(config)
    calls: dict[str, Callable[[], None]] = {"plain torch": plain_torch_update(config.batch_size)}
    for capture in captures:
        calls[f"fastdqn, {capture}"], _, _ = learner_on(resolved.replace(capture=capture), facts)
    once = Effort(effort.seconds, 1, effort.burn_in)
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(effort.repeats):
        for name, call in calls.items():
            rates[name].append(repeat(call, once).median)
    return [
        Figure(
            "learner", "learner_updates_per_second",
            Rate.over(seen, len(seen)),
            {"program": name, "batch_size": config.batch_size},
        )
        for name, seen in rates.items()
    ]  # fmt: skip


def plain_torch_update(batch_size: int) -> Callable[[], None]:
    """Workload C's update as one would write it."""

    def network():
        return nn.Sequential(
            nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2)
        )

    online, target = network(), network()
    adam = torch.optim.Adam(online.parameters(), lr=2.5e-4)
    obs, next_obs = torch.randn(2, batch_size, 4)
    action, reward = torch.randint(2, (batch_size, 1)), torch.ones(batch_size)
    discount = torch.full((batch_size,), 0.99)

    def update():
        with torch.no_grad():
            y = reward + discount * target(next_obs).max(1).values
        loss = nn.functional.mse_loss(online(obs).gather(1, action).squeeze(1), y)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return update


if __name__ == "__main__":
    main_of(main)
