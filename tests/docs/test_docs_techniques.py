"""Plug-ins of the guide: each page's module trains, resumes and is evaluated by another process."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.builders.parts import PART_OPTIONS
from fastdqn.files.run_folder import read_config
from helpers.command_line import ask
from helpers.docs_pages import GUIDE, ROOT, blocks, commands
from helpers.resumed_runs import assert_same_run, stopping_after

EXTENDING = GUIDE / "extending.md"
# The page of each option that names a part.
PAGES = {option: GUIDE / f"plugin_{option.removesuffix('_schedule')}.md" for option in PART_OPTIONS}
EACH = pytest.mark.parametrize("option", PART_OPTIONS)
# Kernels of a copy would be compiled afresh; a few hundred steps go without.
PLAIN = {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
SHORT = (
    "--num-envs 4 --total-timesteps 400 --quiet --learning-starts 100 --train-frequency 4 "
    "--stop-at-return None --eval-episodes 1 --eval-max-steps 20 --tensorboard False"
)


def module_of(page: Path) -> str:
    """Returns the module of a page, whose first line is the comment of its name."""
    (module,) = [each for each in blocks(page, "python") if each.startswith("# my_parts.py\n")]
    return module


def command_of(page: Path) -> list[str]:
    (command,) = commands(page)
    return command


@contextlib.contextmanager
def module_in(folder: Path, page: Path):
    """Within, my_parts is the module of a page, in a folder that is the working directory."""
    folder.mkdir()
    (folder / "my_parts.py").write_text(module_of(page))
    sys.modules.pop("my_parts", None)
    with contextlib.chdir(folder):
        yield folder
    sys.modules.pop("my_parts", None)


def train(page: Path, run_dir: str) -> int:
    return ask(*command_of(page), *SHORT.split(), "--run-dir", run_dir)[0]


@EACH
def test_a_page_has_a_module_and_a_command_that_uses_it(option):
    command = command_of(PAGES[option])
    flag = "--" + option.replace("_", "-")
    assert command[command.index(flag) + 1].startswith("my_parts:")
    assert f"`{flag}`" in EXTENDING.read_text()


@pytest.mark.slow
@EACH
def test_the_command_of_a_page_trains_and_a_stopped_run_resumes_byte_for_byte(option, tmp_path):
    with module_in(tmp_path / "work", PAGES[option]) as folder:
        assert train(PAGES[option], "whole") == 0
        config = read_config(folder / "whole")
        assert getattr(config, option).startswith("my_parts:")
        others = ("sampler", "exploration", "learning_rate_schedule")
        assert config.learner == ("fused" if option in others else "torch")
        with stopping_after(70):
            assert train(PAGES[option], "part") == 130
        assert ask("resume", "part", "--quiet")[0] == 0
        assert_same_run(folder / "whole", folder / "part")


@pytest.mark.slow
def test_another_process_evaluates_the_run_of_every_page(tmp_path):
    for option, page in PAGES.items():
        with module_in(tmp_path / option, page):
            assert train(page, "run") == 0
    source = (
        "import os, sys\n"
        "from fastdqn.cli.main import main\n"
        "for folder in sys.argv[1:]:\n"
        "    os.chdir(folder)\n"
        "    sys.modules.pop('my_parts', None)\n"
        "    assert main(['eval', 'run', '--episodes', '2', '--max-steps', '20']) == 0, folder\n"
    )
    folders = [str(tmp_path / option) for option in PAGES]
    result = subprocess.run(
        [sys.executable, "-c", source, *folders], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("over 2 greedy episodes") == len(PAGES)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of package and tests with the technique of the page extending."""
    root = tmp_path_factory.mktemp("copy")
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("fastdqn", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)
    module, diff = in_tree()
    (root / module.splitlines()[0].removeprefix("# ")).write_text(module)
    subprocess.run(["git", "apply"], input=diff, text=True, cwd=root, check=True)
    return root


def in_tree() -> tuple[str, str]:
    """Returns the module and the diff of the page extending."""
    (module,) = [each for each in blocks(EXTENDING, "python") if each.startswith("# fastdqn/")]
    (diff,) = blocks(EXTENDING, "diff")
    return module, diff


def test_a_technique_in_the_package_takes_a_file_a_word_and_an_option(tmp_path):
    module, diff = in_tree()
    name = module.splitlines()[0].removeprefix("# ").removesuffix(".py").replace("/", ".")
    added = [line for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len(added) == 3
    assert f'"{name}:' in added[0]
    shutil.copytree(ROOT / "fastdqn" / "config", tmp_path / "fastdqn" / "config")
    check = ["git", "apply", "--check"]
    subprocess.run(check, input=diff, text=True, cwd=tmp_path, check=True)


@pytest.mark.slow
def test_the_technique_in_a_copy_of_the_package_trains(copy, tmp_path):
    command = command_of(EXTENDING)
    subprocess.run(
        [sys.executable, "-m", "fastdqn", *command, *SHORT.split(), "--run-dir", tmp_path / "run"],
        cwd=copy, env=os.environ | PLAIN | {"PYTHONPATH": str(copy)}, check=True,
    )  # fmt: skip
    text = (tmp_path / "run" / "config.json").read_text()
    assert '"backup": "softmax"' in text
    assert '"softmax_temperature": 0.1' in text
    assert '"learner": "torch"' in text  # the fused kernel would train without the technique


@pytest.mark.slow
def test_the_tests_that_enumerate_options_pass_in_that_copy(copy):
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/config/test_options.py"],
        cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]
