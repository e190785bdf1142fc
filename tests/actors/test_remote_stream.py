"""The stream of several actors, which are objects of this process here."""

import functools
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fastdqn.actors.actor import Actor, Parts
from fastdqn.actors.block import Block
from fastdqn.actors.remote_stream import RemoteStream
from fastdqn.builders import agent, devices
from fastdqn.builders.actors import _Plan, make_parts
from fastdqn.builders.changed_options import unchangeable
from fastdqn.learning.td_errors import TDErrors
from fastdqn.timing import Laps
from fastdqn.training.loop import actor_turn
from fastdqn.training.progress import INTERRUPTED, Progress
from helpers.oracles import read_rows, valid_rows
from helpers.remote import small
from helpers.setups import setup_of


class Pool:
    """Actors of this process, asked in turn. lose() replaces one, as if its process had died."""

    def __init__(self, setup):
        self.setup, self.config, self.replaced = setup, setup.config, []
        self.count = self.config.actors
        self.lives = [0] * self.count
        self.actors = [self._make(actor) for actor in range(self.count)]
        self.begins, self.turn = [], 0

    def _make(self, actor: int) -> Actor:
        config, setup, life = self.config, self.setup, self.lives[actor]
        plan = _Plan(config, None, setup.facts, setup.own, actor, life, 0)
        first = actor * (config.num_envs // self.count)
        make: functools.partial[Parts] = functools.partial(make_parts, plan)
        return Actor(make, actor, life, first, config.actor_block_steps)

    def _start(self, actor: int):
        found = self.actors[actor].start(1_000 * (actor + 1) + 100 * self.lives[actor])
        assert isinstance(found, tuple)
        return found

    def start(self):
        return [self._start(actor) for actor in range(self.count)]

    def lose(self, actor: int) -> None:
        self.actors[actor].close()
        self.lives[actor] += 1
        self.actors[actor] = self._make(actor)
        self.begins.append(actor)

    def receive(self, request):
        if self.begins:
            return None, self._start(self.begins.pop())[0]
        actor = self.turn % self.count
        self.turn += 1
        asked = request()
        block = self.actors[actor].collect(asked.weights, asked.version, asked.epsilon)
        assert isinstance(block, Block), block
        return block, None

    def close(self):
        for each in self.actors:
            each.close()


@pytest.fixture
def no_object_store(monkeypatch):
    monkeypatch.setattr("fastdqn.actors.remote_stream.ray.put", lambda array: array)


def remote_stream(setup) -> Any:
    config = setup.config
    pool: Any = Pool(setup)
    return RemoteStream(pool, setup.facts, config.num_envs, config.actors, 1)


def assert_whole(replay) -> int:
    """Every stored transition leads to the next of its episode. Returns their number."""
    index = valid_rows(replay)
    batch = read_rows(replay, index)
    assert (batch.next_obs[:, :2] == batch.obs[:, :2]).all()
    assert (batch.next_obs[:, 2] == batch.obs[:, 2] + 1).all()
    assert (batch.reward == 100 * batch.obs[:, 1] + batch.next_obs[:, 2]).all()
    return len(index)


def test_a_lost_actor_leaves_whole_episodes_and_begins_new_ones(tmp_path, no_object_store):
    setup = setup_of(small(tmp_path, actors=2, actor_block_steps=7))
    stream, replay = remote_stream(setup), agent.make_replay(setup.config, setup.facts)
    online = agent.make_online(setup.config, setup.facts)[0]
    weights = np.concatenate([online.weights.numpy(), online.buffers.numpy()])
    stream.connect(lambda: (0, lambda: weights), lambda: 0.5)
    replay.append(stream.start())
    stored = 0
    for turn in range(200):
        if turn in (40, 90, 91):
            stream.pool.lose(turn % 2)
        step = stream.recv()
        replay.append(step)
        stored += len(step.lanes)
    # The last transition before a loss stays, and is valid since its episode was closed.
    assert assert_whole(replay) in range(stored - 4, stored + 1)
    assert stream.stored == stored <= stream.produced
    stream.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_steps": 3},
        {"n_steps": 3, "value": "categorical", "v_max": 1_000.0, "dueling": False},
        {"n_steps": 2, "value": "quantile", "num_quantiles": 5},
    ],
)
def test_initial_priorities_are_those_that_the_learner_finds(tmp_path, no_object_store, options):
    config = small(
        tmp_path, actors=2, actor_block_steps=8, prioritized=True, actor_priorities=True,
        priority_exponent=1.0, learner="torch", **options,
    )  # fmt: skip
    setup = setup_of(config)
    replay: Any = agent.make_replay(setup.config, setup.facts)
    online = agent.make_online(setup.config, setup.facts)[0]
    stream = remote_stream(setup)
    weights = np.concatenate([online.weights.numpy(), online.buffers.numpy()])
    stream.connect(lambda: (0, lambda: weights), lambda: 0.5)
    stream.initial.replay = replay
    first = stream.start()
    replay.append(first)
    stream.initial.follow(first)
    for turn in range(300):
        if turn == 130:
            stream.pool.lose(1)
        step = stream.recv()
        replay.append(step)
        stream.initial.follow(step)
    stream.close()
    index = valid_rows(replay)
    own = setup.config.replace(batch_size=len(index))
    learner = agent.make_learner(own, online, devices.make_capture(own))
    batch = replay.new_batch(len(index))
    read = read_rows(replay, index)
    for name in ("obs", "action", "reward", "discount", "next_obs"):
        getattr(batch, name)[:] = getattr(read, name)
    expected = TDErrors(learner)(batch).numpy()
    lanes, rows = index % replay.ring.num_lanes, index // replay.ring.num_lanes
    slots = lanes * replay.ring.rows + rows % replay.ring.rows
    found = replay.sampler.tree.leaves[slots]
    other = ~np.isclose(found, expected + 1e-6, rtol=1e-4, atol=1e-4)
    # Windows that the loss of an actor completed have the priority of new rows.
    assert other.sum() <= 2 * setup.config.n_steps
    assert len(index) > 450


def test_weights_are_sent_every_so_many_updates(tmp_path, no_object_store):
    setup = setup_of(small(tmp_path, actors=2))
    pool: Any = Pool(setup)
    stream = RemoteStream(pool, setup.facts, 4, 2, weights_frequency=10)
    updates, copies = [0], []

    def weights():
        copies.append(updates[0])
        return np.zeros(3, np.float32)

    stream.connect(lambda: (updates[0], weights), lambda: 0.5)
    versions = []
    for made in (0, 3, 9, 10, 15, 25):
        updates[0] = made
        versions.append(stream._request().version)
    assert versions == [0, 0, 0, 1, 1, 2]
    assert copies == [0, 10, 25]
    stream.close()


def test_the_resolved_options_say_how_environments_are_shared(tmp_path):
    config = setup_of(small(tmp_path, actors=3, actor_num_envs=64, buffer_size=10_000)).config
    assert config.num_envs == 192
    assert config.actor_block_steps == 8  # 512 transitions
    assert setup_of(small(tmp_path, actors=4)).config.actor_block_steps == 64
    assert config.train_frequency == Fraction(4)


def test_a_run_that_was_asked_to_stop_does_not_wait_for_blocks(tmp_path):
    setup = setup_of(small(tmp_path, actors=2))
    stream = remote_stream(setup)
    stream.pool.receive = lambda request: None
    assert stream.recv() is None
    run: Any = SimpleNamespace(
        stream=stream, progress=Progress(steps=8, before=4, now=8), laps=Laps(),
        cadence=SimpleNamespace(updates_due=lambda before, now: 0), staging=None, replay=None,
        learner=None,
    )  # fmt: skip
    assert actor_turn(run) == INTERRUPTED
    assert run.progress.before == 8  # the updates of these steps are made
    stream.close()


def test_the_sum_of_environments_of_actors_cannot_change_when_a_run_is_resumed(tmp_path):
    config = small(tmp_path, actors=2, actor_num_envs=3)
    assert "2 actors with 3 environments each" in unchangeable(config, ["num_envs"])[0]
    assert not unchangeable(small(tmp_path, actors=2), ["num_envs"])
