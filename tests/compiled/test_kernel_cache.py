"""Compiled kernels are kept on disk, until a function or what it uses changes."""

import collections
import enum
import os
import subprocess
import sys
import textwrap
import types

import numba
import pytest

from fastdqn.compiled.kernel_cache import fingerprint

SOURCE = """
    import numba
    import gymnasium
    import numpy as np
    from fastdqn.compiled import CompiledVectorEnv, EnvDefinition

    SPEED = {speed}

    @numba.extending.register_jitable
    def moved(place):
        return place + SPEED

    def reset(state, rng):
        state.place = 0

    def step(state, action, rng):
        state.place = moved(state.place)
        return 1.0, False

    def observe(state, out):
        out[0] = state.place

    def definition():
        return EnvDefinition(
            [("place", int)], gymnasium.spaces.Box(0, 9, (1,)), gymnasium.spaces.Discrete(2),
            reset, step, observe,
        )

    if __name__ == "__main__":
        compiled = []
        compile_ = numba.core.compiler.compile_extra
        numba.core.compiler.compile_extra = lambda *a, **k: compiled.append(1) or compile_(*a, **k)
        import numba.core.dispatcher
        numba.core.dispatcher.compiler.compile_extra = numba.core.compiler.compile_extra
        envs = CompiledVectorEnv(definition(), 1)
        envs.reset(seed=0)
        print(envs.step(np.zeros(1, np.int64))[0][0, 0], bool(compiled))
"""


def run(folder, speed) -> list[str]:
    source = textwrap.dedent(SOURCE).format(speed=speed)
    if not (path := folder / "game.py").exists() or path.read_text() != source:
        path.write_text(source)
    result = subprocess.run(
        [sys.executable, "game.py"], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")},
    )  # fmt: skip
    return result.stdout.split()


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_a_changed_constant_is_compiled_anew(tmp_path):
    assert run(tmp_path, 2) == ["2.0", "True"]
    assert run(tmp_path, 2) == ["2.0", "False"]
    assert run(tmp_path, 3) == ["3.0", "True"]


@pytest.mark.slow
def test_code_of_another_stamp_is_not_taken(tmp_path):
    """A disk may be full after the index was written, and another process may replace it."""
    run(tmp_path, 2)
    (old,) = (tmp_path / "cache").rglob("*.nbc")
    kept = old.read_bytes()
    run(tmp_path, 3)
    old.write_bytes(kept)
    assert run(tmp_path, 3) == ["3.0", "True"]


LIMIT = 5
settings = types.ModuleType("settings")
settings.inner = types.ModuleType("inner")  # pyright: ignore[reportAttributeAccessIssue]
settings.SPEED = settings.inner.SPEED = 3  # pyright: ignore[reportAttributeAccessIssue]


def inner(x):
    return x + LIMIT


def outer(x):
    return inner(x) * 2


def test_a_fingerprint_follows_globals_functions_and_closures(monkeypatch):
    first = fingerprint(outer)
    assert fingerprint(outer) == first
    assert fingerprint(inner) != first
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "LIMIT", 6)
        assert fingerprint(outer) != first
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "inner", lambda x: x - LIMIT)
        assert fingerprint(outer) != first

    def closed(value):
        return lambda x: x + value

    assert fingerprint(closed(1)) != fingerprint(closed(2))
    assert fingerprint(closed(1)) == fingerprint(closed(1))
    assert fingerprint(outer, True) != fingerprint(outer, False)


def of_a_module(x):
    return x + settings.SPEED


def of_a_package(x):
    return x + settings.inner.SPEED


def by_default(x, by=1):
    return x + by


class Move(enum.IntEnum):
    LEFT = 0


def of_an_enum(x):
    return x + Move.LEFT


def test_a_fingerprint_follows_modules_defaults_and_enumerations(monkeypatch):
    """As settings.SPEED, or f(x, by=1), which are compiled in as well."""
    before = [fingerprint(each) for each in (of_a_module, by_default, of_an_enum)]
    monkeypatch.setattr(settings, "SPEED", 4)
    monkeypatch.setattr(by_default, "__defaults__", (2,))
    monkeypatch.setitem(globals(), "Move", enum.IntEnum("Move", {"LEFT": 1}))
    after = [fingerprint(each) for each in (of_a_module, by_default, of_an_enum)]
    assert all(one != other for one, other in zip(before, after, strict=True))
    first = fingerprint(of_a_package)
    monkeypatch.setattr(settings.inner, "SPEED", 9)  # pyright: ignore[reportAttributeAccessIssue]
    assert fingerprint(of_a_package) != first
    pairs = [collections.namedtuple("C", names)(1, 2) for names in ("a b", "b a")]
    assert fingerprint(pairs[0]) != fingerprint(pairs[1])
    assert fingerprint(numba.njit(by_default)) != fingerprint(
        numba.njit(error_model="numpy")(by_default)
    )


def calls_itself(x):
    return calls_itself(x - 1) if x else 0


def test_a_fingerprint_of_a_recursion_ends():
    assert fingerprint(calls_itself) == fingerprint(calls_itself)
