"""The techniques of the page extending, applied to a copy of the package, train there."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from helpers.docs_pages import GUIDE, ROOT, blocks, commands

PAGE = GUIDE / "extending.md"
# Kernels of a copy would be compiled afresh; a few hundred steps go without.
PLAIN = {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
SHORT = (
    "--num-envs 4 --total-timesteps 400 --quiet --learning-starts 100 --eval-episodes 1 "
    "--eval-max-steps 20 --run-dir run"
)

MODULES = [block for block in blocks(PAGE, "python") if block.startswith("# fastdqn/")]
DIFFS, COMMANDS = blocks(PAGE, "diff"), commands(PAGE)


def path_of(module: str) -> str:
    return module.splitlines()[0].removeprefix("# ")


def test_every_module_has_its_diff_and_its_command():
    assert len(MODULES) == len(DIFFS) == len(COMMANDS)
    for module, diff in zip(MODULES, DIFFS, strict=True):
        name = path_of(module).removesuffix(".py").replace("/", ".")
        assert f"+from {name} import" in diff


def test_the_bootstrap_target_takes_as_many_lines_as_the_text_says():
    added = [line for line in DIFFS[-1].splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len(added) == 7
    assert len((MODULES[-1] + DIFFS[-1]).splitlines()) <= 50


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MODULES)), ids=[path_of(m) for m in MODULES])
def test_a_technique_of_the_guide_trains_in_a_copy_of_the_package(number, tmp_path):
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastdqn", tmp_path / "fastdqn", ignore=skipped)
    (tmp_path / path_of(MODULES[number])).write_text(MODULES[number])
    subprocess.run(["git", "apply"], input=DIFFS[number], text=True, cwd=tmp_path, check=True)
    subprocess.run(
        [sys.executable, "-m", "fastdqn", *COMMANDS[number], *SHORT.split()],
        cwd=tmp_path, env=os.environ | PLAIN | {"PYTHONPATH": str(tmp_path)}, check=True,
    )  # fmt: skip
    config, summary = (
        json.loads((tmp_path / "run" / f"{name}.json").read_text())
        for name in ("config", "summary")
    )
    flag = COMMANDS[number][2]
    value = COMMANDS[number][3] if len(COMMANDS[number]) > 3 else "True"
    assert str(config[flag[2:].replace("-", "_")]) == value
    assert config["learner"] == "torch"  # the fused kernel would train without the technique
    assert summary["updates"] > 10


def test_a_diff_applies_to_the_package_as_it_is(tmp_path):
    shutil.copytree(ROOT / "fastdqn", tmp_path / "fastdqn")
    for diff in DIFFS:
        check = ["git", "apply", "--check"]
        subprocess.run(check, input=diff, text=True, cwd=tmp_path, check=True)
