"""fastdqn: the preset cartpole-cleanrl, with fastdqn.train()."""

import json
import tempfile
from fractions import Fraction
from pathlib import Path

from safetensors.numpy import load_file

import fastdqn
from peers import workload as w
from peers.window import Window
from peers.workload import Outcome, Task


def run(task: Task, window: Window) -> Outcome:
    def on_step(progress, step) -> bool:
        if not built:
            window.mark("built")
            built.append(True)
        return not window.tick(progress.steps, progress.updates)

    built: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        trained = fastdqn.train(
            "cartpole-cleanrl",
            num_envs=task.lanes.num_envs,
            batch_size=task.workload.batch_size,
            train_frequency=Fraction(task.workload.steps_per_update),
            total_timesteps=task.total_steps,
            exploration_fraction=w.EPSILON_STEPS / task.total_steps,
            seed=task.seed,
            device="cpu",
            threads=task.threads,
            eval_episodes=1,
            tensorboard=False,
            checkpoint_seconds=None,  # a checkpoint would take time of the window
            # A row of metrics at the start of the window, from which phases are counted.
            log_frequency=window.start_steps,
            run_dir=str(Path(folder, "run")),
            on_step=on_step,
        )
        with open(trained.folder / "metrics.jsonl") as file:
            before = json.loads(file.readline())
        weights = load_file(trained.folder / "policy.safetensors")
    phases = {
        name: seconds - before.get(f"time/share/{name}", 0.0) * before["time/time_elapsed"]
        for name, seconds in trained.summary["phase_seconds"].items()
        if name not in ("evaluate", "save")
    }
    # The optimizer is not accessible here, and counting with on_update would slow the loop.
    updates = trained.summary["updates"]
    return Outcome(updates, updates, sum(array.size for array in weights.values()), phases)
