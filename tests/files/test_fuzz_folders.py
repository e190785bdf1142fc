"""Untrusted run folders: links, sparse and huge files, pipes and planted modules.

Nothing is read beyond a bound, nothing is written outside, and nothing is executed. A few cases run
always; FASTDQN_TEST_FOLDERS=500 runs so many.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fastdqn
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.loader import checkpoint_names
from fastdqn.cli.main import main
from fastdqn.session import RUN_FAILURES
from helpers.checkpoints import edit_manifest
from helpers.fuzz import edited
from helpers.loop import small

COUNT = int(os.environ.get("FASTDQN_TEST_FOLDERS", "24"))
MOST_BYTES = 100 << 20  # that a command may take beyond what the process had at most
COMMANDS = {
    "doctor": ["doctor", "RUN"],
    "resume": ["resume", "RUN", "--total-timesteps", "500", "--quiet"],
    "auto": ["train"],
    "eval": ["eval", "RUN", "--episodes", "1", "--max-steps", "5"],
    "report": ["report", "RUN"],
    "plot": ["plot", "RUN", "--out", "OUT/a.png"],
}
if COUNT > 100:  # its imports alone take longer than all the rest
    COMMANDS["export"] = ["export", "RUN", "--format", "torch", "--out", "OUT/a.pt2"]
PLANTED = """
from pathlib import Path
Path({marker!r}).write_text("executed")
raise SystemExit("a planted module was executed")
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    config = config_of(folder / "run")
    run = fastdqn.train(config).folder
    for words in COMMANDS.values():  # imports and compiles, before memory is counted
        ask(words, run, folder)
    shutil.rmtree(run)
    return fastdqn.train(config).folder


def config_of(run: Path) -> fastdqn.Config:
    return small(
        run.parent, total_timesteps=400, eval_frequency=200, checkpoint_frequency=200,
        run_dir=str(run),
    )  # fmt: skip


def go_on(run: Path) -> int:
    """Runs train() with the options of the run, which have no preset."""
    try:
        fastdqn.train(config_of(run), total_timesteps=500, resume="auto")
    except (fastdqn.ConfigError, CheckpointError, *RUN_FAILURES) as error:
        print(error)
        return 2
    return 0


def ask(words: list[str], run: Path, out: Path) -> tuple[int | str | None, str]:
    """Returns (exit code, output) of a command."""
    output = io.StringIO()
    words = [word.replace("RUN", str(run)).replace("OUT", str(out)) for word in words]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = go_on(run) if words == ["train"] else main(words)
        except SystemExit as error:
            code = error.code
    return code, output.getvalue()


def link_away(path: Path, outside: Path, chance: random.Random) -> None:
    """Moves a file out of the folder and leaves a link to it."""
    target = outside / f"{path.name}-{chance.randrange(1 << 30)}"
    shutil.move(path, target)
    path.symlink_to(target)


def hard_link(path: Path, outside: Path, chance: random.Random) -> None:
    if path.is_file():
        os.link(path, outside / f"{path.name}-{chance.randrange(1 << 30)}")
    else:
        link_away(path, outside, chance)


def link_to_nowhere(path: Path, outside: Path, chance: random.Random) -> None:
    discard(path)
    path.symlink_to(chance.choice(["/dev/zero", "/dev/tty", str(outside / "new"), str(path)]))


def make_huge(path: Path, outside: Path, chance: random.Random) -> None:
    """Makes a sparse file, with or without the original first bytes."""
    if path.is_dir() or chance.random() < 0.5:
        discard(path)
    with open(path, "ab") as file:
        file.truncate(1 << chance.choice([30, 33, 40]))


def make_pipe(path: Path, outside: Path, chance: random.Random) -> None:
    discard(path)
    os.mkfifo(path)


def make_folder(path: Path, outside: Path, chance: random.Random) -> None:
    discard(path)
    path.mkdir()


def damage(path: Path, outside: Path, chance: random.Random) -> None:
    if path.is_file():
        path.write_bytes(edited(path.read_bytes(), chance))
    else:
        shutil.rmtree(path)


def nest(path: Path, outside: Path, chance: random.Random) -> None:
    discard(path)
    path.write_text(chance.choice(["[", '{"a":']) * 200_000)


def discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


SPOILS = (
    link_away, hard_link, link_to_nowhere, make_huge, make_pipe, make_folder, damage, nest,
)  # fmt: skip


def plant(run: Path, marker: Path, chance: random.Random) -> None:
    """Plants modules that the options name, or that a program might import from the folder."""
    names = ["evil", "fastdqn", "numpy", "torch", "sitecustomize", "optuna", "json", "wandb"]
    for name in names:
        (run / f"{name}.py").write_text(PLANTED.format(marker=str(marker)))
    option, value = chance.choice(
        [("env_id", "evil:Evil-v0"), ("wrapper", ["evil:Evil"]), ("env_id", "evil.deep:Evil-v0")]
    )
    with contextlib.suppress(OSError, ValueError):
        values = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(values | {option: value}))
        for name in checkpoint_names(run):
            edit_manifest(
                run, int(name.removeprefix("step-")),
                lambda manifest: manifest["config"]["config"].update({option: value}),
            )  # fmt: skip


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns size and first bytes of every file. Some are sparse files of a terabyte."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                found[str(path)] = (path.stat().st_size, file.read(1 << 16))
        else:
            found[str(path)] = (-1, b"")
    return found


def spoil(run: Path, outside: Path, marker: Path, chance: random.Random) -> str:
    """Modifies the folder of a run at random. Returns the changes, for the failure message."""
    if chance.random() < 0.2:
        plant(run, marker, chance)
        return "planted modules"
    changes = []
    for _ in range(chance.randint(1, 2)):
        path = chance.choice(sorted(run.rglob("*")))
        if not os.path.lexists(path) or path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        how = chance.choice(SPOILS)
        how(path, outside, chance)
        changes.append(f"{how.__name__} {path.relative_to(run)}")
    return ", ".join(changes)


@pytest.mark.slow
def test_untrusted_folders_are_used_within_limits_or_rejected(stranger, tmp_path, monkeypatch):
    codes: Counter[tuple[str, object]] = Counter()
    monkeypatch.chdir(tmp_path)
    for seed in range(COUNT):
        chance = random.Random(seed)
        run, outside, out = (tmp_path / name for name in ("run", "outside", "out"))
        shutil.copytree(stranger, run)
        outside.mkdir()
        out.mkdir()
        how = spoil(run, outside, tmp_path / "marker", chance)
        before = tree(outside)
        name = sorted(COMMANDS)[seed % len(COMMANDS)]
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code, output = ask(COMMANDS[name], run, out)
        case = f"seed {seed}: {name} of {how}: {output}"
        codes[name, code] += 1
        assert code in (0, 1, 2), case
        assert "Traceback" not in output, case
        assert not (tmp_path / "marker").exists(), case
        assert tree(outside) == before, case
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most
        assert grown << 10 < MOST_BYTES, case
        assert {each.name for each in tmp_path.iterdir()} == {"run", "outside", "out"}, case
        for each in (run, outside, out):
            shutil.rmtree(each)
    if COUNT > 100:
        sys.stderr.write(f"{COUNT} folders: {dict(sorted(codes.items(), key=str))}\n")


@pytest.mark.slow
def test_a_command_in_an_untrusted_folder_executes_no_code_from_it(stranger, tmp_path):
    """Runs commands with the untrusted folder as working directory."""
    run, marker = shutil.copytree(stranger, tmp_path / "run"), tmp_path / "marker"
    for name in ("yaml", "optuna", "wandb", "matplotlib", "my_settings"):
        (run / f"{name}.py").write_text(PLANTED.format(marker=str(marker)))
    words = [sys.executable, "-P", "-m", "fastdqn", "doctor", "."]
    looked = subprocess.run(words, cwd=run, capture_output=True, text=True, check=False)
    assert looked.returncode == 0, looked.stderr
    assert not marker.exists()
