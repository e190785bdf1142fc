"""The examples of README and guide run: Python blocks, modules of a user's own, a job script."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import fastdqn
from fastdqn.study.study_folder import Study
from helpers.command_line import ask
from helpers.docs_pages import GUIDE, PAGES, blocks, commands, name_of, shell_lines
from helpers.studies import BASE

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A short CartPole run's folder, in place of the guide's runs/cartpole-1."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fastdqn.train(
        "cartpole", total_timesteps=2_000, eval_episodes=5, run_dir=str(folder), tensorboard=False
    )
    return folder


@pytest.fixture
def workplace(tmp_path, short_run, monkeypatch):
    """A working directory with the run and a module of parts.

    What an example registers is gone after the test.
    """
    shutil.copytree(short_run, tmp_path / "runs" / "cartpole-1")
    (tmp_path / "my_parts.py").write_text(module_named("my_parts.py", "plugin_optimizer"))
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith("my_") or hasattr(sys.modules[name], "of_an_example"):
            del sys.modules[name]
    for env_id in ("Corridor-v0", "Driving-v0", "Lift-v0", "CompiledLift-v0"):
        gymnasium.registry.pop(env_id, None)


def run_block(source: str) -> None:
    """Execute a block; a module of the package, or of the user's, is importable afterwards."""
    first = source.splitlines()[0]
    if not re.fullmatch(r"# (fastdqn/\S+|my_(parts|lift|compiled_lift))\.py", first):
        exec(compile(source, "example", "exec"), {"__name__": "example"})
        return
    name = first.removeprefix("# ").removesuffix(".py").replace("/", ".")
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__["of_an_example"] = True
    exec(compile(source, name, "exec"), module.__dict__)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_examples_of_a_page_run(page, workplace):
    for words in commands(page):
        if words[0] == "tabular" and "--run-dir" in words:  # what an example goes on with
            assert ask(*words, "--quiet")[0] == 0
    for source in blocks(page, "python"):
        run_block(source)


def test_most_pages_have_an_example_in_python():
    assert len(WITH_PYTHON) >= 8


def module_named(name: str, page: str = "environments") -> str:
    """The block of a page that is a module of the user's."""
    found = blocks(GUIDE / f"{page}.md", "python")
    (source,) = [block for block in found if block.startswith(f"# {name}\n")]
    return source


@pytest.fixture
def my_package(workplace):
    (workplace / "my_package.py").write_text(module_named("my_package.py"))


@pytest.mark.slow
@pytest.mark.usefixtures("my_package")
def test_the_environment_and_the_wrapper_of_the_guide_learn_and_are_evaluated():
    (command,) = [words for words in commands(GUIDE / "environments.md") if "size=8" in words]
    more = "--total-timesteps 10000 --target-network-frequency 200 --eval-frequency 0 --quiet"
    assert ask(*command, *more.split(), "--run-dir", "run")[0] == 0
    code, out, _ = ask("eval", "run", "--episodes", "3", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["mean_length"] == 7  # never slips, and never walks to the left
    assert result["mean_return"] == pytest.approx(1 - 7 * 0.01)


class Grid(gymnasium.Env):
    """Observes as MiniGrid does: a Dict with a text, or images in color."""

    def __init__(self, observation_space):
        self.observation_space, self.action_space = observation_space, spaces.Discrete(2)


@pytest.mark.usefixtures("workplace")
def test_the_wrappers_of_the_guide_give_what_it_says():
    names: dict = {}
    exec(compile(module_named("my_wrappers.py"), "my_wrappers.py", "exec"), names)
    color = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    parts = spaces.Dict(direction=spaces.Discrete(4), image=color, mission=spaces.Text(9))
    assert list(names["without_text"](Grid(parts)).observation_space) == ["direction", "image"]
    assert names["pictures"](Grid(color)).observation_space.shape == (4, 40, 48)


def job_script() -> str:
    (script,) = [each for each in blocks(GUIDE / "checkpoints.md", "sh") if "#SBATCH" in each]
    return script


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_of_the_job_script_is_accepted():
    (line,) = [line for line in job_script().splitlines() if line.startswith("fastdqn ")]
    words = shlex.split(line.removesuffix(" &"))[1:]
    assert ask(*words, "--dry-run")[0] == 0


def sleeps(pid: int) -> bool:
    """Whether a script waits for its run, and so knows its number; True where nobody can say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(("name", "requeued"), [("USR1", True), ("TERM", False)])
def test_the_job_script_lets_the_run_end_and_requeues_it(tmp_path, name, requeued):
    """With programs in place of fastdqn and SLURM."""
    for program, text in (
        ("fastdqn", "trap 'echo ended > ended; exit 130' TERM\necho > began\n"
                    "while kill -0 $PPID; do sleep 0.01; done"),
        ("scontrol", "test -e ended && echo $* > requeued"),
    ):  # fmt: skip
        (tmp_path / program).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "job").write_text(job_script())
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", "job"], cwd=tmp_path, env=env)
    try:
        while not ((tmp_path / "began").exists() and sleeps(job.pid)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(timeout=0.01)
                raise AssertionError("ended before the run began")
        job.send_signal(getattr(signal, f"SIG{name}"))
        job.wait(timeout=60)
    finally:
        job.kill()
        job.wait()
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def runnable() -> Iterator[str]:
    """Commands of the README and of the reference that need no environment of others."""
    lines = [shlex.join(words) for page in PAGES[:1] for words in commands(page)]
    lines += [shlex.join(words) for words in commands(GUIDE / "command_line.md")]
    lines += [shlex.join(words) for words in commands(GUIDE / "getting_started.md")]
    lines += [shlex.join(words) for words in commands(GUIDE / "tabular.md")]
    lines += [shlex.join(words) for words in commands(GUIDE / "experiments.md")]
    lines += [shlex.join(words) for words in commands(GUIDE / "starting_points.md")]
    yield from dict.fromkeys(line for line in lines if "--help" not in line)


SLOW = ("bench", "profile", "sweep", "video", "export", "report", "plot", "envs", "tabular")


def marked(line: str):
    return pytest.param(line, marks=[pytest.mark.slow] if line.startswith(SLOW) else [])


@pytest.mark.parametrize("line", [marked(line) for line in runnable()])
def test_a_command_of_the_guide_succeeds(line, workplace, request, monkeypatch):
    """Trainings as a dry run; the others on the short run, with fewer episodes or repeats."""
    for name in ("cartpole-2", "acrobot-1", "acrobot-2", "acrobot-3"):
        shutil.copytree(workplace / "runs" / "cartpole-1", workplace / "runs" / name)
    study = workplace / "studies" / "mine"
    shutil.copytree(workplace / "runs" / "cartpole-1", study / "base" / "seed-1")
    (study / "study.json").write_text(Study("cartpole", (), (BASE,), (1,)).to_json())
    words = shlex.split(line.replace("runs/...", "runs/cartpole-1"))
    if words[0] == "train":
        folders = [at + 1 for at, word in enumerate(words) if word == "--run-dir"]
        words = [w.replace("runs/", "new/") if at in folders else w for at, w in enumerate(words)]
    (workplace / "episodes.npz").touch()  # a dry run does not read it
    (text,) = blocks(GUIDE / "starting_points.md", "toml")
    (workplace / "options.toml").write_text(text)
    more = {
        "train": "--dry-run",
        "resume": "--total-timesteps 2500 --quiet",
        "eval": "--episodes 2",
        "video": "--episodes 1 --max-steps 20",
        "tabular": "--total-timesteps 2000 --eval-episodes 2",
        "bench": "--seconds 0.002 --repeats 1 --num-envs 2",
        "profile": "--updates 2",
        "sweep": "--trials 1 --seeds 1 --total-timesteps 600 --learning-starts 100 "
        "--eval-frequency 300 --eval-episodes 1 --eval-max-steps 20 --num-envs 8",
    }.get(words[0], "")
    monkeypatch.setattr("fastdqn.bench.env_speed.most_lanes", lambda _: 4)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if words[0] == "profile":
        request.getfixturevalue("short_profiles")
    if words == ["envs"]:
        request.getfixturevalue("without_the_arcade")
    if "--wandb" in words:
        words.remove("--wandb")  # its extra need not be installed for a dry run
    needs = {"plot": "matplotlib", "report": "jinja2", "export": "onnx", "sweep": "optuna"}
    pytest.importorskip(needs.get(words[0], "json"))
    if "--ray" in words and words[0] == "sweep":  # a dry run needs no cluster
        pytest.importorskip("ray", reason="needs the extra ray")
    code, _, err = ask(*words, *more.split())
    assert (code, err if code else []) == (0, [])


def test_lines_of_the_shell_are_found():
    assert "pip install -e '.[report,video,export]'" in shell_lines(GUIDE / "getting_started.md")
