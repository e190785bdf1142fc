"""For tests of the command line: running commands, odd environments, a mocked training."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import gymnasium
import numpy as np
from gymnasium import spaces

from fastdqn.builders import build
from fastdqn.cli.main import main
from fastdqn.session import Trained


class Odd(gymnasium.Env):
    """An environment with given spaces, which is never stepped."""

    def __init__(self, action_space=None, observation_space=None, error=None):
        if error is not None:
            raise error
        self.action_space = action_space or spaces.Discrete(2)
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,), np.float32)


ODD = {
    "OddMultiDiscrete-v0": {"action_space": spaces.MultiDiscrete([2, 3])},
    "OddMultiBinary-v0": {"action_space": spaces.MultiBinary(3)},
    "OddDict-v0": {
        "observation_space": spaces.Dict({"x": spaces.Discrete(2), "note": spaces.Text(5)})
    },
    "OddText-v0": {"observation_space": spaces.Text(5)},
    "OddEmpty-v0": {"observation_space": spaces.Box(-1, 1, (0,), np.float32)},
    "OddBoth-v0": {
        "action_space": spaces.MultiBinary(3),
        "observation_space": spaces.Graph(spaces.Discrete(5), None),
    },
    "OddPackage-v0": {
        "error": gymnasium.error.DependencyNotInstalled("zbox is missing,\nrun `pip install zbox`")
    },
    "OddImport-v0": {"error": ImportError("No module named 'zbox'")},
    "OddArgument-v0": {"error": TypeError("missing 1 required argument: 'level'")},
}


def register(env_id: str, make: Callable, kwargs: dict | None = None) -> None:
    """Registers an environment as one of this module."""
    gymnasium.register(env_id, lambda **given: make(**given), kwargs=kwargs or {})


@contextlib.contextmanager
def odd_environments() -> Iterator[None]:
    """Within, the ids of ODD are registered."""
    for env_id, kwargs in ODD.items():
        register(env_id, Odd, kwargs)
    yield
    for env_id in ODD:
        del gymnasium.registry[env_id]


def ask(*args: str) -> tuple[int, str, list[str]]:
    """Runs a command in this process. Returns (exit code, output, error lines)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    return code, out.getvalue(), err.getvalue().splitlines()


def refused(command: str) -> list[str]:
    """Returns the error lines of a command that must be rejected, without their prefix."""
    with mock.patch.object(build, "build", side_effect=AssertionError("accepted")):
        code, out, lines = ask(*command.split())
    assert (code, out) == (2, "")
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


SUMMARY = {
    "exit_reason": "budget spent", "total_steps": 1, "episodes": 0, "updates": 0,
    "steps_per_second": 1.0, "solved": None, "eval": None,
}  # fmt: skip


@contextlib.contextmanager
def no_training(run=lambda session: SUMMARY):
    """Within, `run` replaces the training. Everything before it happens."""
    session = SimpleNamespace(
        startup=SimpleNamespace(totals={}),
        recorder=SimpleNamespace(folder=Path("runs/x")),
        close=lambda: None,
    )
    building = mock.patch.object(build, "build", return_value=session)

    def trained(session, imports_seconds):
        return Trained(session.recorder.folder, run(session))

    with building, mock.patch("fastdqn.api.run_session", trained):
        yield


def container(root: Path, limit: int) -> Path:
    """Returns a root folder of a container with a memory limit and no usage."""
    for name, text in (
        ("proc/meminfo", f"MemAvailable: {1 << 40} kB"),
        ("proc/self/cgroup", "0::/"),
        ("sys/fs/cgroup/memory.max", str(limit)),
        ("sys/fs/cgroup/memory.current", "0"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
