"""Corrupted values and files, and the limits that reading them must respect."""

import copy
import json
import os
import random
import resource
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fastdqn import ConfigError
from fastdqn.checkpoints.format import CheckpointError
from fastdqn.checkpoints.network_weights import WeightsError

# FASTDQN_FUZZ_CASES=1000 takes minutes.
CASES = int(os.environ.get("FASTDQN_FUZZ_CASES", "300"))


def many_cases(test):
    """Runs a test for many seeds, which is cheaper than drawn structures."""
    limits = settings(
        max_examples=CASES, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate],  # a seed is as small as it gets
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    return limits(given(seed=st.integers(0, (1 << 32) - 1))(test))


MOST_BYTES = 64 << 20  # beyond what the process has already


RUNS_CODE = {
    "exec", "pickle.find_class", "marshal.loads", "os.system", "os.exec", "os.posix_spawn",
    "os.fork", "subprocess.Popen", "ctypes.dlopen",
}  # fmt: skip
_seen: list[str] = []
_listening = False


def _audit(event: str, arguments: tuple) -> None:
    if _listening and event in RUNS_CODE:
        _seen.append(event)


sys.addaudithook(_audit)  # it cannot be taken away again


@pytest.fixture(autouse=True)
def memory_is_bounded():
    """Limits memory: a large allocation raises MemoryError, which no reader catches."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(read, *arguments) -> str | None:
    """Returns why reading fails, in one line, or None. Asserts that no code is executed."""
    global _listening
    _seen.clear()
    _listening = True
    try:
        read(*arguments)
        said = None
    except (CheckpointError, WeightsError) as error:
        said = str(error)
    except ConfigError as error:
        said = error.lines[0]
    finally:
        _listening = False
    assert _seen == []
    if said is not None:
        assert "\n" not in said.replace("\\n", "")
        assert len(said) < 10_000
        assert "fit into memory" not in said
    return said


JUNK = [
    None, True, False, 0, 1, -1, 2.5, 1 << 31, 1 << 63, 1 << 200, float("nan"), float("inf"), 1e308,
    "", "a", "../../etc", "a\nb", "\ud800", "inf", "float64", [], [0], [-1], [1 << 40], [[1]],
    {}, {"a": 1}, {"array": "000000"}, {"dict": {"float": 3}}, ["a", 2], {"dtype": "object"},
]  # fmt: skip


def edited(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        kind = chance.choice(("flip", "cut", "insert", "repeat"))
        if kind == "flip":
            data = (
                data[:at]
                + bytes(b ^ 1 << chance.randrange(8) for b in data[at : at + 1])
                + (data[at + 1 :])
            )
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + chance.randbytes(chance.randint(1, 6)) + data[at:]
        else:
            data = data[:at] + data[at : at + 40] * 3 + data[at:]
    return data


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Returns every (container, key) of a JSON value."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found = [(tree, key) for key in keys]
    return found + [each for key in keys for each in nodes(tree[key])]


def spoiled(text: str, chance: random.Random) -> bytes:
    """Returns a JSON object with one or two values, at any depth, changed or removed."""
    tree = json.loads(text)
    for _ in range(chance.randint(1, 2)):
        container, key = chance.choice(nodes(tree) or [(tree, "new")])
        if isinstance(container, dict) and chance.random() < 0.2:
            container.pop(key, None)
        else:
            container[key] = copy.deepcopy(chance.choice(JUNK))
    return json.dumps(tree).encode()
