"""The program around the commands: how it ends when it is interrupted early, or deep down."""

import os
import subprocess
import sys


def ended(*words: str, path: str = "") -> tuple[int, str]:
    """Exit code and errors of Python with these words, path first among the modules'."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, *sys.path]))}
    process = subprocess.run([sys.executable, *words], env=env, stderr=subprocess.PIPE, text=True)
    return process.returncode, process.stderr


def test_an_interrupt_while_modules_are_imported_is_quiet(tmp_path):
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    assert ended("-m", "fastdqn", "presets", path=str(tmp_path)) == (130, "")


def test_an_interrupt_within_generated_code_has_the_same_exit_code(tmp_path):
    lines = [
        "from fastdqn import cli",
        "from fastdqn.__main__ import main",
        "def interrupted():",
        "    exec('raise KeyboardInterrupt')",
        "cli.main = interrupted",
        "raise SystemExit(main())",
    ]
    assert ended("-c", "\n".join(lines)) == (130, "")
