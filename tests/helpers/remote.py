"""Environments and runs for tests of actors on a Ray cluster."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from fastdqn import Config
from fastdqn.builders import build
from fastdqn.logging.console import Silent
from helpers.setups import setup_of


class Counting(gymnasium.Env):
    """Observes (seed % 2^20, episode, t), whatever the action is.

    Episode e has 3 + (seed + e) % 5 steps, and is truncated if e is odd. Each step adds a byte to
    the file of this process in a folder, which then has the size of what was produced.
    """

    def __init__(self, folder: str = "", seconds: float = 0.0):
        self.observation_space = spaces.Box(-1.0, 1e9, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.seed, self.episode, self.t = 0, -1, 0
        self.seconds = seconds
        self.file: Any = None
        if folder:
            self.file = open(Path(folder, str(os.getpid())), "ab", buffering=0)  # noqa: SIM115

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed % (1 << 20), -1
        self.episode, self.t = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        if self.file is not None:
            self.file.write(b".")
        if self.seconds:
            time.sleep(self.seconds)
        over = self.t == 3 + (self.seed + self.episode) % 5
        odd = self.episode % 2 == 1
        reward = float(100 * self.episode + self.t)
        return self._observe(), reward, over and not odd, over and odd, {}

    def close(self):
        if self.file is not None:
            self.file.close()

    def _observe(self) -> np.ndarray:
        return np.array([self.seed, self.episode, self.t], np.float32)


class Failing(Counting):
    """Raises at its third step."""

    def step(self, action):
        if self.t == 2:
            raise ValueError("the wheel is off")
        return super().step(action)


for _name, _class in (("Counting-v0", Counting), ("Failing-v0", Failing)):
    if _name not in gymnasium.registry:
        gymnasium.register(_name, f"helpers.remote:{_class.__name__}")


def small(folder: Path, **options) -> Config:
    """Options of a small run over Counting."""
    return Config(
        env_id="helpers.remote:Counting-v0", total_timesteps=2_000, num_envs=4, learning_starts=50,
        batch_size=16, hidden_sizes=(8,), buffer_size=8_000, eval_frequency=0,
        final_evaluation=False, tensorboard=False, train_frequency=Fraction(4),
        checkpoint_seconds=None, run_dir=str(folder / "run"),
    ).replace(**options)  # fmt: skip


def built(config: Config, **more) -> Any:
    """Returns a built session, with objects for build() in more."""
    return build.build(setup_of(config, more.get("envs")), lambda _: Silent(), **more)


@contextmanager
def cluster(*nodes: int) -> Iterator[Any]:
    """A Ray cluster of machines with these numbers of CPUs, all on this machine."""
    from ray.cluster_utils import Cluster

    tests = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([tests, str(Path(tests).parent), before or ""])
    found = Cluster()
    try:
        for cpus in nodes:
            found.add_node(num_cpus=cpus, include_dashboard=False)
        yield found
    finally:
        found.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def produced(folder: Path) -> dict[int, int]:
    """Returns how many steps each process made in a folder of Counting."""
    return {int(path.name): path.stat().st_size for path in folder.iterdir()}


def kill_one(folder: Path, rng: np.random.Generator, known: set[int]) -> int:
    """Kills one of the processes that step, with a signal that it cannot handle."""
    # This process has made an environment too, to look at it.
    others = produced(folder).keys() - known - {os.getpid()}
    alive = sorted(pid for pid in others if _runs(pid))
    if not alive:
        return 0
    pid = int(rng.choice(alive))
    os.kill(pid, signal.SIGKILL)
    known.add(pid)
    return pid


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
