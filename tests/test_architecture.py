"""The rooms: what each may import, and a few rules of the house that a parser can check."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from helpers.sources import FILES, MEETS_NUMPY, PACKAGE, parse, relative

STDLIB = frozenset(sys.stdlib_module_names)
CLOCKS = {"time", "datetime", "timeit"}

# Room (a folder, or a module beside them) -> what it may import besides the standard library.
# A room may import only rooms in the rows above its own, so that no circle can arise.
ROOMS: dict[str, set[str]] = {
    "text": set(),
    "part_error": set(),
    "system": set(),
    "timing": set(),
    "kernels": {"numba", "llvmlite", "numpy"},
    "config": set(),
    "state_dict": {"numpy"},
    "schedules": {"numpy", "part_error"},
    "seeding": {"numpy", "kernels"},
    "exploration": {"numpy", "kernels", "state_dict"},
    "compiled": {"gymnasium", "numba", "numpy", "kernels"},
    "envs": {
        "ale_py", "envpool", "gymnasium", "minatar", "numpy",
        "compiled", "config", "kernels", "seeding", "state_dict", "system",
    },
    "replay": {"numpy", "kernels", "part_error", "state_dict"},
    "learning": {
        "torch", "numpy",
        "exploration", "kernels", "part_error", "replay", "state_dict", "system",
    },
    "ranks": {"numpy", "torch", "config"},
    "training": {
        "numpy", "config", "envs", "learning", "ranks", "replay", "schedules", "state_dict",
        "timing",
    },
    "files": {"config", "system"},
    "datasets": {"gymnasium", "minari", "numpy", "envs", "files", "replay"},
    "checkpoints": {
        "safetensors", "torch", "numpy", "config", "files", "state_dict", "system", "text",
    },
    "logging": {"rich", "tensorboard", "wandb", "numpy", "config", "files", "state_dict", "text"},
    "report": {
        "PIL", "imageio_ffmpeg", "jinja2", "matplotlib", "numpy", "scipy",
        "config", "files", "text",
    },
    "study": {
        "numpy", "rich", "checkpoints", "config", "files", "logging", "report", "system", "text",
        "training",
    },
    "cluster": {"ray", "config", "files", "study", "system", "text"},
    "actors": {
        "numpy", "ray", "cluster", "config", "envs", "learning", "replay", "state_dict", "system",
    },
    "tabular": {
        "gymnasium", "numpy", "checkpoints", "config", "envs", "exploration", "files", "kernels",
    },
    "session": {
        "checkpoints", "config", "envs", "files", "learning", "logging", "part_error", "ranks",
        "replay", "seeding", "system", "timing", "training",
    },
    "builders": {
        "gymnasium", "numpy", "ray", "torch", "actors", "checkpoints", "cluster", "config",
        "datasets", "envs", "exploration", "files", "kernels", "learning", "logging", "part_error",
        "ranks", "replay", "schedules", "seeding", "session", "state_dict", "study", "system",
        "tabular", "timing", "training",
    },
    "resuming": {
        "gymnasium", "torch", "builders", "checkpoints", "config", "envs", "files", "logging",
        "ranks", "replay", "seeding", "session", "state_dict", "system", "tabular", "training",
    },
    "auto_resume": {
        "gymnasium", "torch", "builders", "checkpoints", "config", "envs", "files", "logging",
        "ranks", "resuming", "seeding", "session", "system", "tabular", "training",
    },
    "api": {
        "gymnasium", "numpy", "torch", "auto_resume", "builders", "checkpoints", "config", "envs",
        "files", "logging", "ranks", "replay", "seeding", "session", "system", "training",
    },
    "tabular_run": {
        "numpy", "builders", "config", "envs", "files", "logging", "schedules", "seeding",
        "session", "system", "tabular", "timing", "training",
    },
    "bench": {
        "gymnasium", "numpy", "rich", "stable_baselines3", "torch", "builders", "compiled",
        "config", "envs", "files", "learning", "logging", "replay", "session", "system",
        "training",
    },
    "__init__": {"api", "config", "envs", "resuming", "session"},
    "cli": {
        "gymnasium", "numba", "numpy", "onnx", "optuna", "rich", "shtab", "torch", "tyro",
        "__init__", "api",
        "bench", "builders", "checkpoints", "cluster", "config", "envs", "files", "kernels",
        "learning", "ranks", "replay", "report", "resuming", "seeding", "session", "study",
        "system", "tabular", "tabular_run", "text", "timing", "training",
    },
    "__main__": {"cli", "system"},
}  # fmt: skip

# Standard modules that a room must do without.
_FILES = {"os", "io", "pathlib", "shutil", "tempfile"}
FORBIDDEN: dict[str, set[str]] = {
    "envs": CLOCKS | {"random", "pickle"},
    "replay": CLOCKS | _FILES | {"random", "pickle"},
    "learning": CLOCKS | _FILES | {"random", "pickle"},
    "training": CLOCKS | _FILES | {"random", "pickle"},
    "checkpoints": {"random", "pickle"},
    "files": {"random", "pickle"},
    "logging": {"random", "pickle"},
    "tabular": CLOCKS | {"random", "pickle", "shutil", "tempfile"},
    "schedules": CLOCKS | {"random", "os"},
    "config": CLOCKS | {"random", "os"},
}


# Files that import what their caller names, which no parser can know.
IMPORTS_BY_NAME = {"__init__.py", "builders/parts.py", "envs/registry.py"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all imported modules: inside functions, by importlib and by name too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            module = node.module or ""
            if module == "fastdqn":  # from fastdqn import api: a module, or a name of __init__
                yield from (_module_or_package(alias.name) for alias in node.names)
            else:
                yield module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"fastdqn(\.\w+)+", node.value):  # imported by its name
                yield node.value
        elif isinstance(node, ast.Call) and _imports_by_name(node.func):
            named = node.args[0] if node.args else None
            yield str(named.value) if isinstance(named, ast.Constant) else "a module by its name"


def _imports_by_name(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def _module_or_package(name: str) -> str:
    is_module = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
    return f"fastdqn.{name}" if is_module else "fastdqn.__init__"


def breaches(relative: str, source: str) -> list[str]:
    """Lines such as 'replay/ring.py imports torch' for one file of the package."""
    room = relative.split("/")[0].removesuffix(".py")
    allowed, forbidden = ROOMS[room] | {room}, FORBIDDEN.get(room, set())
    if room == "learning" and relative not in MEETS_NUMPY:
        allowed = allowed - {"numpy"}
    if relative in IMPORTS_BY_NAME:
        allowed = allowed | {"a module by its name"}
    return [
        f"{relative} imports {name}"
        for name in dict.fromkeys(imports(parse(source)))
        if not _is_allowed(name, allowed, forbidden)
    ]


def _is_allowed(name: str, allowed: set[str], forbidden: set[str]) -> bool:
    top = name.split(".")[0]
    if top in STDLIB:
        return top not in forbidden
    if top != "fastdqn" or name == "fastdqn":
        return top in allowed
    return name.split(".")[1] in allowed


def test_every_file_imports_only_what_its_room_may():
    lines = [line for file in FILES for line in breaches(relative(file), file.read_text())]
    assert not lines, "\n".join(lines)


def test_every_room_of_the_table_exists_and_none_is_missing():
    rooms = {relative(file).split("/")[0].removesuffix(".py") for file in FILES}
    assert rooms == set(ROOMS)


def test_rooms_import_only_rooms_below_them():
    below: set[str] = set()
    for room, allowed in ROOMS.items():
        assert not (allowed & set(ROOMS)) - below, room
        below.add(room)


def diagram() -> str:
    """Returns the rooms as a Mermaid diagram, without imports that follow from others."""
    ours = {room: allowed & set(ROOMS) for room, allowed in ROOMS.items()}
    below: dict[str, set[str]] = {}
    for room, rooms in ours.items():
        below[room] = rooms.union(*(below[each] for each in rooms))
    arrows = [
        f"  {room} --> {each}"
        for room, rooms in reversed(ours.items())
        for each in sorted(rooms)
        if not any(each in below[other] for other in rooms)
    ]
    return "\n".join(["```mermaid", "graph TD", *arrows, "```"])


def test_the_guide_shows_the_rooms_as_they_are():
    page = (PACKAGE / "docs" / "architecture.md").read_text()
    assert diagram() in page
    table = page.partition("| room | contains |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", table))
    assert named == set(ROOMS)


def test_the_root_of_the_package_has_few_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= 14


@pytest.mark.parametrize(
    ("file", "source", "line"),
    [
        ("replay/ring.py", "import torch", "replay/ring.py imports torch"),
        ("replay/ring.py", "def f():\n    import torch.nn", "replay/ring.py imports torch.nn"),
        ("replay/ring.py", "from time import sleep", "replay/ring.py imports time"),
        ("envs/make.py", "from fastdqn.replay import Ring", "envs/make.py imports fastdqn.replay"),
        ("envs/make.py", 'import_module("torch")', "envs/make.py imports torch"),
        ("envs/make.py", "x = __import__(name)", "envs/make.py imports a module by its name"),
        ("envs/make.py", 'X = {"a": "fastdqn.api"}', "envs/make.py imports fastdqn.api"),
        ("learning/value.py", "import numpy as np", "learning/value.py imports numpy"),
        ("learning/value.py", "import fastdqn.envs", "learning/value.py imports fastdqn.envs"),
        ("training/loop.py", "from fastdqn import api", "training/loop.py imports fastdqn.api"),
        ("schedules.py", "import torch", "schedules.py imports torch"),
    ],
)
def test_a_breach_is_named_by_file_and_module(file, source, line):
    (found,) = breaches(file, source)
    assert found.startswith(line)


def test_parts_of_learning_may_import_numpy_and_all_of_it_a_batch():
    assert breaches("learning/policy.py", "import numpy as np") == []
    assert breaches("learning/value.py", "from fastdqn.replay.batch import Batch") == []


def test_nothing_is_called_done():
    """The word hides two things: terminated and truncated."""
    used = []
    for file in FILES:
        for node in ast.walk(parse(file.read_text())):
            names = {getattr(node, field, None) for field in ("id", "arg", "attr", "name")}
            if names & {"done", "dones"}:
                used.append(f"{relative(file)}:{getattr(node, 'lineno', '?')} uses done")
    assert used == []


# Modules in the order in which one process imports them, and what is not loaded after each.
LIGHT = (
    ("fastdqn", {"torch", "gymnasium", "numba"}),
    ("fastdqn.cli.main", {"torch", "gymnasium", "numba"}),
    ("fastdqn.replay", {"torch", "gymnasium"}),
    ("fastdqn.envs", {"torch"}),
    ("fastdqn.tabular.q_learning", {"torch"}),
)


def test_importing_a_room_does_not_load_what_it_does_not_need():
    code = "import sys\n" + "".join(
        f"import {module}\nprint({module!r}, sorted({never!r} & sys.modules.keys()))\n"
        for module, never in LIGHT
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == [f"{module} []" for module, _ in LIGHT], result.stderr
