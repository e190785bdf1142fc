"""A state machine that calls a replay and its model alike."""

import os

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fastdqn.replay import FrameStore, RowStore, rows_per_lane
from helpers.oracles import (
    Outcome,
    ReplayModel,
    Stacks,
    assert_rows_equal,
    make_replay,
    read_rows,
    valid_rows,
)

EXAMPLES = int(os.environ.get("FASTDQN_TEST_EXAMPLES", "12"))
SEEDS = st.integers(0, 2**32 - 1)
STORES = st.sampled_from([RowStore, FrameStore])
ENDS = st.sampled_from([(False, False)] * 3 + [(True, False), (False, True), (True, True)])


class ReplayMachine(RuleBasedStateMachine):
    """Applies each call to both, and checks after each that they hold and sample the same."""

    @initialize(
        num_lanes=st.integers(1, 4),
        n_steps=st.integers(1, 5),
        stack=st.integers(1, 4),
        store=STORES,
        buffer_size=st.integers(1, 23),
        gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
        seed=SEEDS,
    )
    def build(self, num_lanes, n_steps, stack, store, buffer_size, gamma, seed):
        rows = max(rows_per_lane(buffer_size, num_lanes, n_steps, stack), n_steps + stack)
        self.replay = make_replay(
            num_lanes, rows, n_steps, gamma, stack, (stack, 2), seed=seed, store=store
        )
        self.model = ReplayModel(num_lanes, rows, n_steps, gamma, stack)
        self.batch = self.replay.new_batch(8)
        self.obs = Stacks(num_lanes, stack)

    def some(self, rng, lanes) -> list[int]:
        return [int(lane) for lane in rng.permutation(lanes) if rng.random() < 0.7]

    def open_lanes(self) -> list[int]:
        return [number for number, lane in enumerate(self.model.lanes) if lane.is_open]

    def step(self, rng, lanes, ends) -> None:
        if not lanes:
            return
        obs = self.obs.step(lanes)
        actions, rewards = rng.integers(0, 9, len(lanes)), rng.normal(size=len(lanes))
        terminated, truncated = np.array(ends).T
        self.replay.add(lanes, actions, rewards, obs, terminated, truncated)
        for i, lane in enumerate(lanes):
            self.model.lanes[lane].add(Outcome(int(actions[i]), rewards[i], *ends[i]), obs[i])

    def begin(self, lanes) -> None:
        obs = self.obs.begin(lanes)
        self.replay.start(lanes, obs)
        for lane, first in zip(lanes, obs, strict=True):
            self.model.lanes[lane].start(first)

    @rule(seed=SEEDS)
    def start_lanes_open_or_not(self, seed):
        self.begin(self.some(np.random.default_rng(seed), len(self.model.lanes)))

    @rule()
    def start_where_nothing_is_open(self):
        self.begin([lane for lane in range(len(self.model.lanes)) if lane not in self.open_lanes()])

    @precondition(lambda self: self.open_lanes())
    @rule(seed=SEEDS, data=st.data())
    def step_some_lanes(self, seed, data):
        rng = np.random.default_rng(seed)
        lanes = self.some(rng, self.open_lanes())
        self.step(rng, lanes, [data.draw(ENDS) for _ in lanes])

    @precondition(lambda self: self.open_lanes())
    @rule(seed=SEEDS, end=st.sampled_from([(True, False), (False, True), (True, True)]))
    def end_all_open_lanes_at_once(self, seed, end):
        lanes = self.open_lanes()
        self.step(np.random.default_rng(seed), lanes, [end] * len(lanes))

    @rule(seed=SEEDS, length=st.integers(1, 30), end=ENDS)
    def live_a_whole_episode_in_one_lane(self, seed, length, end):
        rng = np.random.default_rng(seed)
        lane = int(rng.integers(len(self.model.lanes)))
        self.begin([lane])
        for _ in range(length - 1):
            self.step(rng, [lane], [(False, False)])
        self.step(rng, [lane], [end])

    @rule(seed=SEEDS)
    def close_some_lanes(self, seed):
        lanes = self.some(np.random.default_rng(seed), len(self.model.lanes))
        self.replay.close(lanes)
        for lane in lanes:
            self.model.lanes[lane].close()

    @precondition(lambda self: len(self.open_lanes()) < len(self.model.lanes))
    @rule()
    def step_a_lane_that_is_not_open(self):
        lanes = list(range(len(self.model.lanes)))
        zeros = np.zeros(len(lanes))
        with pytest.raises(ValueError, match="has no open episode"):
            self.replay.add(lanes, zeros, zeros, self.obs.last)

    @invariant()
    def every_valid_row_and_no_other_says_what_happened(self):
        windows = self.model.valid()
        assert len(self.replay) == len(self.model)
        assert sorted(valid_rows(self.replay)) == sorted(windows)
        assert_rows_equal(read_rows(self.replay, valid_rows(self.replay)), windows)

    @invariant()
    def a_sample_holds_valid_rows_or_is_refused(self):
        windows = self.model.valid()
        if windows:
            self.replay.sample(self.batch)
            assert_rows_equal(self.batch, windows)
            assert (self.batch.weight == 1.0).all()
        else:
            with pytest.raises(RuntimeError, match="nothing to sample"):
                self.replay.sample(self.batch)


ReplayMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None
)


def at_length(case: type) -> type:
    """The test case of a machine with four times as many examples, as a slow test."""
    settled = settings(case.settings, max_examples=4 * EXAMPLES)
    return pytest.mark.slow(type("AtLength", (case,), {"settings": settled}))
