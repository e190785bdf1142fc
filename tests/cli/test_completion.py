"""fastdqn completion: what a shell offers, asked of a real one."""

import shutil
import subprocess

import pytest

from fastdqn.config.presets import PRESETS
from helpers.command_line import ask


@pytest.fixture(scope="module")
def script() -> str:
    code, said, err = ask("completion", "bash")
    assert (code, err) == (0, [])
    return said


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tra"], ["train"]),
        (["ev"], ["eval"]),
        (["train", "cartpole-r"], ["cartpole-rainbow"]),
        (["train", "cartpole", "--no-doub"], ["--no-double"]),
        (["train", "cartpole", "--value", "q"], ["quantile"]),
        (["plot", "runs/x", "--ov"], ["--over"]),
        (["plot", "runs/x", "--over", "t"], ["time"]),
        (["export", "runs/x", "--format", ""], ["onnx", "torch"]),
        (["docs", "glo"], ["glossary"]),
        (["docs", "replay", "--s"], ["--search"]),
        (["eval", "run"], []),  # files are the shell's own to offer
    ],
)
def test_a_shell_offers_what_fits(script, words, offered):
    told = " ".join(f"'{word}'" for word in ["fastdqn", *words])
    asked = f"COMP_WORDS=({told}); COMP_CWORD={len(words)}; _fastdqn; echo ${{COMPREPLY[@]}}"
    answer = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True
    )
    assert (answer.stdout.split(), answer.stderr) == (offered, "")


def test_every_command_and_preset_is_in_the_script(script):
    words = set(script.replace('"', " ").split())
    assert {*PRESETS, "doctor"} - words <= {"doctor"}
    assert {"train", "sweep", "report", "completion", "--help"} - words <= {"--help"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "completion takes one shell: bash or zsh"),
        (["bsh"], "unknown shell 'bsh': did you mean bash?"),
    ],
)
def test_another_shell_is_one_line(words, says):
    assert ask("completion", *words) == (2, "", [f"error: {says}"])


def test_zsh_takes_the_same_script_by_its_own_bridge(script):
    assert ask("completion", "zsh")[1].endswith(script)
