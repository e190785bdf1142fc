"""Modules in the working directory: only what the user names is imported from there."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.system import cwd_imports

# Before every search for a top-level module that is installed nowhere, a file of that name appears
# in the working directory. Its import leaves a marker.
PLANT = """
import importlib.machinery, os, sys

class Planter:
    def find_spec(self, name, path=None, target=None):
        known = name in sys.builtin_module_names or name.startswith(("my_", "helper_"))
        if path is not None or known or importlib.machinery.PathFinder.find_spec(name):
            return None
        with open(f"{name}.py", "w") as file:
            file.write(f"open('RAN-{name}', 'w')")
        sys.path_importer_cache.pop(os.getcwd(), None)

sys.meta_path.insert(0, Planter())
"""
COMMANDS = """
from fastdqn.cli.main import main
if __name__ == "__main__":
    import multiprocessing
    multiprocessing.set_start_method({method!r})
    for words in {commands!r}:
        print(words, main(words.split()), flush=True)
"""
OPTIONS = (
    "--total-timesteps 300 --learning-starts 64 --batch-size 16 --buffer-size 1000 --quiet "
    "--eval-episodes 1"
)


def run(tmp_path: Path, *commands: str, method: str = "fork") -> subprocess.CompletedProcess[str]:
    """Run commands in one process whose working directory is a folder of its own."""
    script = tmp_path / "scripts" / "commands.py"
    script.parent.mkdir()
    script.write_text(PLANT + COMMANDS.format(commands=commands, method=method))
    folder = tmp_path / "stranger"
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=env, capture_output=True, text=True
    )


@pytest.mark.slow
def test_no_command_imports_a_file_of_the_working_directory(tmp_path):
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / ".numba_config.yaml").write_text("cache_dir: planted_kernels")
    done = run(
        tmp_path, f"train cartpole --run-dir r {OPTIONS}", "doctor r",
        "eval r --episodes 1", "report r", "plot r --out p.png", "envs CartPole",
    )  # fmt: skip
    planted = {file.name for file in folder.glob("*.py")}
    assert done.stdout.count(" 0\n") == 6, done.stdout + done.stderr
    assert len(planted) > 3
    assert list(folder.glob("RAN-*")) == []
    assert not (folder / "planted_kernels").exists()


MODULE = """
import helper_now
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Mine(CartPoleEnv):
    def reset(self, **kwargs):
        import helper_later
        return super().reset(**kwargs)

gymnasium.register("Mine-v0", "helper_entry:Mine", max_episode_steps=50)
"""


@pytest.mark.slow
def test_a_named_module_imports_its_neighbors_at_any_time_and_in_every_process(tmp_path):
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "my_envs.py").write_text(MODULE)
    (folder / "helper_now.py").touch()
    (folder / "helper_later.py").touch()
    (folder / "helper_entry.py").write_text("from my_envs import Mine")
    words = f"train my_envs:Mine-v0 --num-envs 2 {OPTIONS}"
    done = run(
        tmp_path, f"{words} --run-dir a", f"{words} --run-dir b --vectorization async",
        method="spawn",
    )  # fmt: skip
    assert done.stdout.count(" 0\n") == 2, done.stdout + done.stderr
    assert {file.name for file in folder.glob("RAN-*")} == set()


@pytest.mark.slow
def test_python_m_does_not_put_the_working_directory_before_installed_packages(tmp_path):
    (tmp_path / "tyro.py").write_text("open('ran', 'w')")
    command = [sys.executable, "-m", "fastdqn", "presets"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/elsewhere"])
    return sys.path


def test_a_package_that_is_run_from_its_checkout_stays_on_the_path(path, tmp_path):
    cwd_imports.take_off_path(str(tmp_path))
    assert path == ["/elsewhere", str(tmp_path)]


def test_a_path_that_does_not_begin_with_the_working_directory_is_left_alone(path):
    path.insert(0, "/first")
    cwd_imports.take_off_path("/package")
    assert path[0] == "/first"
    assert len(path) == 3


@pytest.mark.parametrize("before", [None, "", "1"])
def test_programs_of_a_spawned_worker_have_the_users_own_import_path(monkeypatch, tmp_path, before):
    """The variable that keeps the working directory off a worker's path is not handed on."""
    if before is None:
        monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    monkeypatch.setattr(cwd_imports._finder, "folder", str(tmp_path))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    with cwd_imports.safe_children():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        sent = pickle.dumps(cwd_imports.Inherited())
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as in the worker, which was started meanwhile
    pickle.loads(sent)
    assert os.environ.get("PYTHONSAFEPATH") == before
