"""The README's own technique, wrappers and network do what it says of them."""

import json
import os
import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from helpers.readme import README, blocks

# Kernels of a copy would be compiled afresh; a few hundred steps go without.
PLAIN = {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}


def block_of(language: str, start: str) -> str:
    (found,) = [block for block in blocks(language) if block.startswith(start)]
    return found


@pytest.mark.slow
def test_the_technique_of_the_readme_trains_in_a_copy_of_the_package(tmp_path):
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(README.parent / "fastdqn", tmp_path / "fastdqn", ignore=skipped)
    source = block_of("python", "# fastdqn/learning/softmax.py")
    (tmp_path / "fastdqn" / "learning" / "softmax.py").write_text(source)
    patch = block_of("diff", "--- a/fastdqn")
    assert len((source + patch).splitlines()) <= 50
    added = [line for line in patch.splitlines() if line[0] == "+" and line[:3] != "+++"]
    assert len(added) == 7  # as the text says
    subprocess.run(["git", "apply"], input=patch, text=True, cwd=tmp_path, check=True)
    words = (
        "train cartpole --softmax-temperature 0.1 --num-envs 4 --total-timesteps 400 --quiet "
        "--learning-starts 100 --eval-episodes 1 --eval-max-steps 20 --run-dir run"
    )
    subprocess.run(
        [sys.executable, "-m", "fastdqn", *words.split()],
        cwd=tmp_path, env=os.environ | PLAIN | {"PYTHONPATH": str(tmp_path)}, check=True,
    )  # fmt: skip
    config, summary = (
        json.loads((tmp_path / "run" / f"{name}.json").read_text())
        for name in ("config", "summary")
    )
    assert (config["softmax_temperature"], config["learner"]) == (0.1, "torch")
    assert summary["updates"] > 10


class Grid(gymnasium.Env):
    """Observes as MiniGrid does: a Dict with a text, or pictures in colour."""

    def __init__(self, observation_space):
        self.observation_space, self.action_space = observation_space, spaces.Discrete(2)


def test_the_wrappers_of_the_readme_give_what_it_says():
    names: dict = {}
    exec(compile(block_of("python", "# my_wrappers.py"), "README.md", "exec"), names)
    gymnasium.registry.pop("Driving-v0")
    colour = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    parts = spaces.Dict(direction=spaces.Discrete(4), image=colour, mission=spaces.Text(9))
    assert list(names["without_text"](Grid(parts)).observation_space) == ["direction", "image"]
    assert names["pictures"](Grid(colour)).observation_space.shape == (4, 40, 48)
