"""fastdqn completion: what a shell offers, asked of a real one."""

import dataclasses
import shutil
import subprocess

import pytest

from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config
from helpers.command_line import ask

# Words behind `fastdqn`, the last of them not finished, and what is offered for it.
OFFERED = [
    (["tra"], ["train"]),
    (["ev"], ["eval"]),
    (["train", "cartpole-r"], ["cartpole-rainbow"]),
    (["train", "cartpole", "--no-doub"], ["--no-double-buffering", "--no-double"]),
    (["train", "cartpole", "--value", "q"], ["quantile"]),
    (["train", "cartpole", "--tensorboard", "T"], ["True"]),
    (["train", "cartpole", "--double", "--value", "q"], ["quantile"]),
    (["train", "cartpole", "--see"], ["--seed", "--seeds"]),
    (["train", "cartpole", "--vs", "--noisy", "--jo"], ["--jobs"]),
    (["bench", "rep"], ["replay"]),
    (["bench", "replay", "cartpole-cle"], ["cartpole-cleanrl"]),
    (["plot", "runs/x", "runs/y", "--ov"], ["--over"]),
    (["plot", "runs/x", "--over", "t"], ["time"]),
    (["plot", "runs/x", "--curves", "q", "l"], ["loss"]),
    (["export", "runs/x", "--format", ""], ["onnx", "torch"]),
    (["docs", "glo"], ["glossary"]),
    (["docs", "replay", "--s"], ["--search"]),
    (["completion", "z"], ["zsh"]),
    (["eval", "run"], ["runs"]),
    (["doctor", "runs/"], ["runs/x"]),
    (["eval", "runs/x", "--out", "ru"], ["runs"]),
]


@pytest.fixture(scope="module")
def script() -> str:
    code, said, err = ask("completion", "bash")
    assert (code, err) == (0, [])
    return said


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_shell_offers_what_fits(script, tmp_path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    lines = [script]
    for words, _ in OFFERED:
        given = " ".join(f"'{word}'" for word in ["fastdqn", *words])
        lines.append(f"COMP_WORDS=({given}); COMP_CWORD={len(words)}; COMPREPLY=()")
        lines.append("_shtab_fastdqn; echo ${COMPREPLY[@]}")
    answer = subprocess.run(
        ["bash"], input="\n".join(lines), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = [line.split() for line in answer.stdout.splitlines()]
    asked = [" ".join(words) for words, _ in OFFERED]
    expected = [offered for _, offered in OFFERED]
    assert dict(zip(asked, found, strict=True)) == dict(zip(asked, expected, strict=True))
    assert answer.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_command_preset_and_option_is_in_the_script(shell):
    code, said, err = ask("completion", shell)
    assert (code, err) == (0, [])
    flags = {field.name.replace("_", "-") for field in dataclasses.fields(Config)}
    names = {*PRESETS, "doctor", "train", "sweep", "report", "completion", *flags}
    assert [name for name in sorted(names) if name not in said] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "completion takes one shell: bash, zsh, tcsh"),
        (["bsh"], "unknown shell 'bsh': did you mean bash?"),
    ],
)
def test_another_shell_is_one_line(words, says):
    assert ask("completion", *words) == (2, "", [f"error: {says}"])
