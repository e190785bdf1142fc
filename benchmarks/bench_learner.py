"""Learner benchmark: an update of workload C, compared with the same update in plain torch.

    python benchmarks/bench_learner.py
    python benchmarks/bench_learner.py --compile --batch-sizes 32 128 512 2048

Plain torch means modules, torch.optim.Adam and autograd, as in CleanRL's dqn.py. Learners are
measured in turns, so that noise of the machine affects all of them alike.
"""

from collections.abc import Callable

import torch
from torch import nn

from fastdqn.bench.learner_speed import learner_on
from fastdqn.bench.repeats import Effort, by_turns
from fastdqn.bench.results import Figure
from fastdqn.builders.preflight import preview
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from harness import console, count, effort_of, main_of, parser, save, show


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--batch-sizes", type=count, nargs="+", default=[32, 128, 512, 2048])
    asked.add_argument("--compile", action="store_true", help="measure the compiled update, too")
    asked.add_argument("--threads", type=count, default=1)
    args = asked.parse_args()
    torch.set_num_threads(args.threads)
    ways = [("torch", "eager"), ("fused", "eager")] + [("torch", "compile")] * args.compile
    figures = []
    for size in args.batch_sizes:
        config = PRESETS["cartpole-cleanrl"].replace(
            batch_size=size, device="cpu", threads=args.threads
        )
        own = measure_update(config, ways, effort_of(args))
        figures += own
        plain, *others = own
        for figure in others:
            ratio = figure.rate.median / plain.rate.median
            console.print(f"batch {size}: {figure.of['program']} / plain torch: {ratio:.2f}")
    rows = show(f"one update of workload C, {args.threads} thread(s)", figures)
    save(args, rows, args.threads)


def measure_update(config: Config, ways: list[tuple[str, str]], effort: Effort) -> list[Figure]:
    """Measures updates/s of plain torch and of each (learner, capture), in turns."""
    setup = preview(config)
    resolved, facts = setup.config, setup.facts
    calls: dict[str, Callable[[], int | None]] = {
        "plain torch": plain_torch_update(config.batch_size)
    }
    for learner, capture in ways:
        name = learner if learner == "fused" else capture
        own = resolved.replace(learner=learner, capture=capture)
        calls[f"fastdqn, {name}"], _, _ = learner_on(own, facts)
    return [
        Figure(
            "learner", "learner_updates_per_second", rate,
            {"program": name, "batch_size": config.batch_size},
        )
        for name, rate in by_turns(calls, effort).items()
    ]  # fmt: skip


def plain_torch_update(batch_size: int) -> Callable[[], None]:
    """Returns a plain torch update of workload C."""

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
