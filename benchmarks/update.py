"""Time the parts of workload C (cartpole-cleanrl, 64 environments) alone, on one CPU thread.

    python benchmarks/update.py [--compile]

Interleaves the learner's update with the same update written in plain torch (modules and
torch.optim.Adam, as CleanRL does), so that their ratio holds on a noisy machine. Medians.
"""

import argparse
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from fastdqn import build
from fastdqn.engine.local import Run
from fastdqn.presets import PRESETS
from fastdqn.record.console import Silent

REPEATS, CALLS = 15, 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the parts of workload C alone.")
    parser.add_argument("--compile", action="store_true", help="also the compiled update")
    captures = ["eager", "compile"] if parser.parse_args().compile else ["eager"]
    runs = {capture: prepare(capture) for capture in captures}
    run = runs["eager"]
    medians = measure(
        {
            "plain torch update": plain_torch_update(),
            **{
                f"fastdqn update, {name}": lambda run=run: run.learner.update(run.staging.device)
                for name, run in runs.items()
            },
            "sample 128": lambda: run.replay.sample(run.staging.host),
            "act, 64 lanes": lambda: run.policy.act(run.stream.obs, 0.1),
            "step and store, 64 lanes": lambda: step_environment(run),
        }
    )
    for name, microseconds in medians.items():
        print(f"{name:24} {microseconds:8.1f} us")
    plain = medians["plain torch update"]
    print(f"plain torch / fastdqn, eager: {plain / medians['fastdqn update, eager']:.2f}")
    print(f"limit of the plain torch update at 10 steps an update: {1e7 / plain:,.0f} steps/s")


def prepare(capture: str) -> Run:
    """The parts of a run of workload C, its replay filled with random play."""
    folder = tempfile.mkdtemp()
    config = PRESETS["cartpole-cleanrl"].replace(
        num_envs=64, device="cpu", capture=capture, run_dir=f"{folder}/run", tensorboard=False
    )
    run = build.build(config, lambda _: Silent()).run
    run.replay.append(run.stream.start(1))
    for _ in range(200):
        step_environment(run)
    run.replay.sample(run.staging.host)
    return run


def step_environment(run: Run) -> None:
    run.stream.send(np.zeros(run.stream.num_lanes, np.int64))
    run.replay.append(run.stream.recv())


def plain_torch_update() -> Callable[[], None]:
    def network():
        return nn.Sequential(
            nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2)
        )

    online, target = network(), network()
    adam = torch.optim.Adam(online.parameters(), lr=2.5e-4)
    obs, next_obs = torch.randn(2, 128, 4)
    action, reward = torch.randint(2, (128, 1)), torch.ones(128)
    discount = torch.full((128,), 0.99)

    def update():
        with torch.no_grad():
            y = reward + discount * target(next_obs).max(1).values
        loss = nn.functional.mse_loss(online(obs).gather(1, action).squeeze(1), y)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return update


def measure(parts: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of a call, the parts taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for repeat in range(REPEATS + 1):
        for name, call in parts.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            if repeat:  # the first is a warm-up
                seconds[name].append((time.perf_counter() - start) / CALLS)
    return {name: float(np.median(values)) * 1e6 for name, values in seconds.items()}


if __name__ == "__main__":
    main()
