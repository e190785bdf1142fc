"""The program: exit codes after interrupts and after lost output."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastdqn.system.standard_streams import checked_output


def ended(*words: str, path: str = "", out: Any = None) -> tuple[int, str]:
    """Returns exit code and errors of Python with these arguments and path on PYTHONPATH."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, *sys.path]))}
    process = subprocess.run(
        [sys.executable, *words], env=env, stdout=out, stderr=subprocess.PIPE, text=True
    )
    return process.returncode, process.stderr


def test_an_interrupt_while_modules_are_imported_is_quiet(tmp_path):
    (tmp_path / "shlex.py").write_text("raise KeyboardInterrupt")
    assert ended("-m", "fastdqn", "presets", path=str(tmp_path)) == (130, "")


def test_an_interrupt_within_generated_code_has_the_same_exit_code(tmp_path):
    lines = [
        "from fastdqn.cli import main as cli",
        "from fastdqn.__main__ import main",
        "def interrupted():",
        "    exec('raise KeyboardInterrupt')",
        "cli.main = interrupted",
        "raise SystemExit(main())",
    ]
    assert ended("-c", "\n".join(lines)) == (130, "")


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
NO_ROOM = "error: standard output cannot be written: No space left on device\n"


def delivered(command) -> int:
    with checked_output() as outcome:
        outcome.code = command()
    return outcome.code


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize("unbuffered", ["", "-u"])
def test_a_full_disk_behind_the_output_is_one_line(unbuffered):
    with FULL.open("w") as full:
        words = filter(None, [unbuffered, "-m", "fastdqn", "presets"])
        assert ended(*words, out=full) == (1, NO_ROOM)


@needs_full
@pytest.mark.parametrize(("size", "code", "said"), [(1, 0, 1), (100_000, 0, 1), (1, 130, 130)])
def test_output_of_any_length_is_missed(monkeypatch, capsys, size, code, said):
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert delivered(lambda: print("x" * size) or code) == said
        monkeypatch.undo()
    assert capsys.readouterr().err == NO_ROOM


def broken_pipe() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def test_of_a_reader_who_has_gone_nothing_is_reported(monkeypatch, capsys):
    with broken_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert delivered(lambda: print("x") or 0) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_a_run_continues_when_its_reader_has_gone():
    lines = [
        "from fastdqn.logging.console import make_display",
        "display = make_display('x', quiet=False)",
        "display.say('a')",
        "display.say('b')",
        "raise SystemExit(7)",
    ]
    with broken_pipe() as pipe:
        assert ended("-c", "\n".join(lines), out=pipe) == (7, "")


def test_an_error_of_another_file_is_not_the_outputs():
    with pytest.raises(FileNotFoundError):
        delivered(lambda: os.open("no/such/file", os.O_RDONLY))
