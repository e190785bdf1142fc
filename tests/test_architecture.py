"""The rooms: what each may import, and a few rules of the house that a parser can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastdqn"
FILES = sorted(PACKAGE.rglob("*.py"))
STDLIB = frozenset(sys.stdlib_module_names)
CLOCKS = {"time", "datetime", "timeit"}

# Room (a folder, or a module beside them) -> what it may import besides the standard library.
# A name of ours with a dot allows that module alone.
ROOMS: dict[str, set[str]] = {
    "acting": {
        "atari", "gymnasium", "envpool", "numpy", "kernels", "plain", "rng", "seeds",
        "working_directory",
    },
    "replay": {"numpy", "kernels", "plain", "rng"},
    "tabular": {"numpy", "gymnasium", "acting", "explore", "kernels", "rng"},
    "explore": {"kernels", "numpy", "plain", "rng"},
    "table_config": {"config", "rules"},
    "table_files": {"config", "record", "table_config", "tabular"},
    "tables": {
        "numpy", "acting", "api", "build", "checks", "config", "engine", "memory", "record",
        "resolve", "run_folder", "schedules", "seeds", "session", "streams", "table_config",
        "table_files", "tabular", "timing", "watchdog", "signals",
    },
    "table_command": {
        "tyro", "commands", "config", "options", "presets", "resolve", "seeds", "signals",
        "table_config", "tables", "timing",
    },
    "learning": {
        "torch", "numpy", "atomics", "explore", "kernels", "plain", "products", "replay.batch",
        "rng", "spare",
    },
    "engine": {"numpy", "acting", "learning", "plain", "replay", "schedules", "timing"},
    "atari": set(),
    "record": {
        "numpy", "torch", "safetensors", "rich", "tensorboard", "imageio_ffmpeg", "PIL",
        "config", "memory", "plain", "threads", "wandb",
    },
    "config": {"rules"},
    "rules": {"combinations"},
    "combinations": {"atari"},
    "presets": {"config"},
    "options": {"tyro", "config", "help", "rules"},
    "rng": {"numpy", "kernels"},
    "plain": {"numpy"},
    "signals": {"output", "threads"},
    "threads": {"output"},
    "describe": {"atari", "config"},
    "kernels": {"numba"},
    "products": {"numba", "llvmlite"},
    "atomics": {"numba", "llvmlite"},
    "spare": {"threads"},
    "memory": {"cgroups"},
    "cgroups": set(),
    "schedules": {"numpy"},
    "timing": {"cgroups"},
    "devices": {"torch", "combinations", "config", "learning", "replay"},
    "ready": {"acting", "config", "devices", "learning", "parts", "replay"},
    "sizes": {"acting", "combinations", "config", "memory", "replay", "torsos", "values"},
    "checks": {
        "torch", "gymnasium", "acting", "combinations", "config", "devices", "presets", "record",
        "sizes", "torsos", "watchdog",
    },
    "resolve": {
        "atari",
        "acting", "checks", "combinations", "config", "devices", "kernels", "record", "sizes",
        "spare", "timing", "torsos",
    },
    "seeds": {"numpy", "rng"},
    "build": {
        "torch", "gymnasium", "acting", "atari", "combinations", "config", "device_memory",
        "devices", "engine", "learning", "parts", "plain", "ready", "record", "replay", "resolve",
        "run_folder", "schedules", "seeds", "session", "sizes", "streams", "timing", "torsos",
    },
    "run_folder": {"torch", "atari", "config", "engine", "learning", "record", "schedules"},
    "streams": {"gymnasium", "acting", "checks", "combinations", "config", "seeds", "watchdog"},
    "watchdog": {"acting", "output", "threads"},
    "parts": {
        "atari",
        "torch", "numpy", "acting", "replay", "learning", "engine", "record", "config", "devices",
        "explore", "rng", "schedules", "seeds", "table_files", "tabular.table", "torsos", "values",
    },
    "values": {"torch", "learning"},
    "torsos": {"torch", "numpy", "learning"},
    "session": {
        "acting", "atari", "describe", "device_memory", "engine", "learning", "record", "config",
        "scores", "seeds", "signals", "replay", "threads", "timing", "watchdog",
    },
    "api": {
        "auto_resume", "torch", "numpy", "gymnasium", "acting", "engine", "given", "record",
        "replay", "build",
        "config", "parts", "plain", "presets", "resolve", "seeds", "session", "streams", "timing",
        "watchdog", "signals",
    },
    "given": {"gymnasium", "numpy", "torch", "acting", "atari", "checks", "config", "record"},
    "auto_resume": {
        "torch", "gymnasium", "acting", "api", "build", "config", "engine", "given", "record",
        "resuming", "seeds", "session", "signals", "table_files",
    },
    "resuming": {
        "torch", "gymnasium", "acting", "api", "build", "checks", "config", "engine", "given",
        "plain", "record", "replay", "seeds", "session", "signals", "table_files",
    },
    "measure": {
        "torch", "numpy", "gymnasium", "rich", "stable_baselines3", "acting", "atari", "build",
        "checks", "config", "describe", "devices", "engine", "learning", "parts", "record",
        "replay", "resolve", "session", "timing", "watchdog",
    },
    "trained": {
        "acting", "api", "checks", "config", "learning.policy", "parts", "record", "table_files",
        "tabular.table", "watchdog",
    },
    "commands": {
        "gymnasium", "rich", "acting", "api", "checks", "combinations", "config", "measure",
        "describe", "record", "resolve", "scores", "sizes", "trained",
    },
    "video": {
        "gymnasium", "acting", "config", "engine", "learning.policy", "measure", "options",
        "record", "resolve", "seeds", "tabular.table", "trained", "watchdog",
    },
    "device_memory": {"torch"},
    "doctor": {
        "numba", "numpy", "torch", "config", "kernels", "memory", "record", "remedy", "replay",
        "table_files", "timing",
    },
    "remedy": {
        "acting", "checks", "config", "engine", "record", "resuming", "working_directory",
    },
    "report": {"jinja2", "matplotlib", "numpy", "scipy", "config", "record.files"},
    "pages": {"config", "measure.outputs", "options", "record.files", "report"},
    "export": {
        "numpy", "onnx", "torch", "api", "config", "learning.policy", "measure.outputs", "options",
        "parts", "record.files",
    },
    "completion": {
        "config", "export", "pages", "presets", "sweep", "table_command", "video", "words",
    },
    "help": {"tyro"},
    "scores": set(),
    "sweep": {
        "optuna", "tyro", "acting", "api", "checks", "config", "engine", "options", "record",
        "resolve", "trials",
    },
    "trials": {"optuna", "config", "measure.outputs", "record.files"},
    "cli": {
        "acting", "options", "config", "presets", "timing", "api", "checks", "commands",
        "completion",
        "doctor", "export", "kernels", "pages", "record", "resuming", "session", "sweep",
        "table_command", "video", "words", "working_directory", "output", "fastdqn", "signals",
    },
    "words": {"tyro", "config"},
    "__init__": {"acting", "config", "presets", "api", "resuming"},
    "__main__": {"cli", "output", "working_directory"},
    "output": set(),
    "working_directory": set(),
}  # fmt: skip

# Standard modules that a room must do without.
FORBIDDEN: dict[str, set[str]] = {
    "acting": CLOCKS | {"random", "pickle"},
    "replay": CLOCKS | {"random", "pickle", "os", "io", "pathlib", "shutil", "tempfile"},
    "learning": CLOCKS | {"random", "pickle", "os", "io", "pathlib", "shutil", "tempfile"},
    "engine": CLOCKS | {"random", "pickle", "os", "io", "pathlib", "shutil", "tempfile"},
    "record": {"random", "pickle"},
    "tabular": CLOCKS | {"random", "pickle", "os", "io", "pathlib", "shutil", "tempfile"},
    "schedules": CLOCKS | {"random", "os"},
    "config": CLOCKS | {"random", "os"},
}

# Where learning/ meets NumPy: the crossing. The rest of the room knows tensors only. The fused
# update's kernels take arrays, and its object hands them the memory of the tensors.
CROSSING = {
    "learning/staging.py", "learning/policy.py", "learning/fused.py", "learning/fused_step.py",
    "learning/fused_choice.py", "learning/fused_pair.py", "learning/fused_second.py",
    "learning/returns.py", "learning/device_choice.py",
}  # fmt: skip


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all imported modules, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            module = node.module or ""
            if module == "fastdqn":  # from fastdqn import build: a module, or a name of __init__
                yield from (_module_or_package(alias.name) for alias in node.names)
            else:
                yield module


def _module_or_package(name: str) -> str:
    is_module = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
    return f"fastdqn.{name}" if is_module else "fastdqn"


def breaches(relative: str, source: str) -> list[str]:
    """Lines such as 'replay/ring.py imports torch' for one file of the package."""
    room = relative.split("/")[0].removesuffix(".py")
    allowed, forbidden = ROOMS[room] | {room}, FORBIDDEN.get(room, set())
    if room == "learning" and relative not in CROSSING:
        allowed = allowed - {"numpy"}
    return [
        f"{relative} imports {name}"
        for name in dict.fromkeys(imports(ast.parse(source)))
        if not _is_allowed(name, allowed, forbidden)
    ]


def _is_allowed(name: str, allowed: set[str], forbidden: set[str]) -> bool:
    top = name.split(".")[0]
    if top in STDLIB:
        return top not in forbidden
    if top != "fastdqn" or name == "fastdqn":
        return top in allowed
    ours = name.removeprefix("fastdqn.")
    return any(ours == entry or ours.startswith(entry + ".") for entry in allowed)


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_every_file_imports_only_what_its_room_may():
    lines = [line for file in FILES for line in breaches(relative(file), file.read_text())]
    assert not lines, "\n".join(lines)


def test_every_room_of_the_table_exists_and_none_is_missing():
    rooms = {relative(file).split("/")[0].removesuffix(".py") for file in FILES}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize(
    ("file", "source", "line"),
    [
        ("replay/ring.py", "import torch", "replay/ring.py imports torch"),
        ("replay/ring.py", "def f():\n    import torch.nn", "replay/ring.py imports torch.nn"),
        ("replay/ring.py", "from time import sleep", "replay/ring.py imports time"),
        ("acting/make.py", "from fastdqn.replay import Ring", "acting/make.py imports fastdqn.rep"),
        ("learning/value.py", "import numpy as np", "learning/value.py imports numpy"),
        ("learning/value.py", "from fastdqn.replay import Ring", "learning/value.py imports fastd"),
        ("engine/local.py", "from fastdqn import build", "engine/local.py imports fastdqn.build"),
        ("schedules.py", "import torch", "schedules.py imports torch"),
    ],
)
def test_a_breach_is_named_by_file_and_module(file, source, line):
    (found,) = breaches(file, source)
    assert found.startswith(line)


def test_the_crossing_may_import_numpy_and_the_rest_of_learning_a_batch():
    assert breaches("learning/policy.py", "import numpy as np") == []
    assert breaches("learning/value.py", "from fastdqn.replay.batch import Batch") == []


def test_nothing_is_called_done():
    """The word hides two things: terminated and truncated."""
    used = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = {getattr(node, field, None) for field in ("id", "arg", "attr", "name")}
            if names & {"done", "dones"}:
                used.append(f"{relative(file)}:{getattr(node, 'lineno', '?')} uses done")
    assert used == []


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("fastdqn", ("torch", "gymnasium", "numba")),
        ("fastdqn.replay", ("torch", "gymnasium")),
        ("fastdqn.acting", ("torch",)),
        ("fastdqn.tabular.q_learning", ("torch",)),
        ("fastdqn.cli", ("torch", "gymnasium", "numba")),
    ],
)
def test_importing_a_room_does_not_load_what_it_does_not_need(module, never):
    code = f"import sys, {module}; print([m for m in {never!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stdout + result.stderr
