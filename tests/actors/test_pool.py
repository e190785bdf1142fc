"""The pool of actors, with a Ray whose calls are answered by a test."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fastdqn.actors import pool as pool_module
from fastdqn.actors.pool import ActorPool, ActorsLostError, Request


class Silent:
    """A Ray whose actors never answer, and whose clock goes on by 40 s with each wait."""

    def __init__(self):
        self.now, self.waits = 0.0, 0

    def wait(self, references, **options):
        self.now, self.waits = self.now + 40.0, self.waits + 1
        return [], references

    def available_resources(self):
        return {"CPU": 3.0}


def reference_of(*args: Any) -> Any:
    return SimpleNamespace(remote=lambda *args: object())


@pytest.fixture
def silent(monkeypatch):
    found = Silent()
    monkeypatch.setattr(pool_module, "ray", found)
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setattr(ActorPool, "_check_head", lambda self: None)
    return found


def pool_of(patience: float | None) -> tuple[ActorPool, list[str]]:
    def make(actor: int, incarnation: int) -> Any:
        return SimpleNamespace(start=reference_of(), collect=reference_of())

    found, lines = ActorPool(make, lambda *key: 0, 2, 2, 0, "head:1", patience), []
    found.say = lines.append
    return found, lines


def ask() -> Request:
    return Request(None, 0, 0.5)


def begun(pool: ActorPool) -> ActorPool:
    for member in pool._members:
        pool._begin(member)
        member.started = None
    return pool


def test_a_wait_for_blocks_ends_when_the_run_is_asked_to_stop(silent):
    pool, _ = pool_of(None)
    begun(pool).stops = lambda: silent.waits == 5
    assert pool.receive(ask) is None
    assert silent.waits == 5


def test_a_long_wait_for_the_first_answers_is_explained_once(silent):
    pool, lines = pool_of(None)

    def give_up() -> None:
        if silent.waits == 5:
            raise KeyboardInterrupt

    pool._check_head = give_up
    with pytest.raises(KeyboardInterrupt):
        pool.start()
    assert lines == [
        "no actor has answered for 80 s: 3 CPUs of the cluster are free, and each actor needs one"
    ]


def test_an_actor_that_starts_has_more_time_than_a_block(silent):
    pool, _ = pool_of(50.0)
    with pytest.raises(ActorsLostError, match="no actor has sent a block for 80 s"):
        begun(pool).receive(ask)
    pool, _ = pool_of(50.0)
    pool._begin(begun(pool)._members[0])
    with pytest.raises(ActorsLostError, match="no actor has sent a block for 160 s"):
        pool.receive(ask)


def test_an_error_of_ray_is_one_line_and_the_run_can_be_resumed(silent, monkeypatch):
    pool, _ = pool_of(None)

    def full() -> Request:
        raise pool_module.exceptions.ObjectStoreFullError("no room for an object")

    monkeypatch.setattr(ActorPool, "_require_cluster", lambda self: None)
    with pytest.raises(ActorsLostError, match="head:1 has failed: no room for an object") as found:
        begun(pool).receive(full)
    assert found.value.resumable
