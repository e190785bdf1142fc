"""Prioritized replay equals a model of lists and a dict, for any sequence of calls."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from fastdqn.replay import PrioritizedSampler, rows_per_lane
from helpers.oracle_priorities import PriorityModel, make_prioritized
from helpers.oracles import ReplayModel, Stacks, assert_rows_equal
from helpers.replay_machine import EXAMPLES, SEEDS, STORES, ReplayMachine, at_length

SIZES = [0.0, 1e-9, 0.3, 1.0, 7.0, 1e30, -2.0, np.nan, np.inf, -np.inf, 1e300]


class PrioritizedMachine(ReplayMachine):
    """All that may be done to a replay, and priorities of rows that are or were there."""

    sampler: PrioritizedSampler

    @initialize(
        num_lanes=st.integers(1, 4),
        n_steps=st.integers(1, 5),
        stack=st.integers(1, 4),
        store=STORES,
        buffer_size=st.integers(1, 23),
        exponent=st.sampled_from([0.0, 0.5, 1.0]),
        beta=st.sampled_from([0.0, 0.4, 1.0]),
        seed=SEEDS,
    )
    def build(self, num_lanes, n_steps, stack, store, buffer_size, exponent, beta, seed):
        rows = max(rows_per_lane(buffer_size, num_lanes, n_steps, stack), n_steps + stack)
        self.replay, self.sampler = make_prioritized(
            num_lanes, rows, n_steps, 0.5, stack, (stack, 2), seed, exponent,
            lambda steps: beta, store,
        )  # fmt: skip
        # Compares only occasionally, so many rows may have been added and overwritten in between.
        self.late = PrioritizedSampler(num_lanes * rows, exponent, lambda steps: beta)
        self.model = ReplayModel(num_lanes, rows, n_steps, 0.5, stack)
        self.priorities, self.beta = PriorityModel(exponent), beta
        self.batch = self.replay.new_batch(8)
        self.obs, self.ids = Stacks(num_lanes, stack), np.arange(-3, 3)

    @rule(seed=SEEDS)
    def update_rows_that_are_there_or_were(self, seed):
        rng = np.random.default_rng(seed)
        index = rng.choice(self.ids, 12)  # some twice
        priority = np.where(rng.random(12) < 0.5, rng.exponential(size=12), rng.choice(SIZES, 12))
        priority[np.abs(priority) == 1e300] = np.inf  # no float32: the same to the sampler
        self.replay.update_priorities(index, priority)
        self.priorities.update(index, priority)

    @rule(seed=SEEDS)
    def update_what_a_sample_drew(self, seed):
        if self.model.valid():
            self.replay.sample(self.batch)
            priority = np.random.default_rng(seed).exponential(size=8).astype(np.float32)
            self.replay.update_priorities(self.batch.index, priority)
            self.priorities.update(self.batch.index, priority)

    @rule()
    def the_late_one_looks_at_all_lanes(self):
        replay = self.replay
        self.late.follow(replay.ring, replay.n_steps, np.arange(replay.ring.num_lanes))
        np.testing.assert_array_equal(self.late.tree.leaves > 0, self.sampler.tree.leaves > 0)

    @precondition(lambda self: self.obs.frames > 0)
    @rule()
    def an_update_of_rows_gone_or_not_yet_there_changes_nothing(self):
        before = self.sampler.state()
        gone = self.ids[~np.isin(self.ids, list(self.model.valid()))]
        self.replay.update_priorities(gone, np.full(len(gone), 1e9))
        assert before["leaves"].tobytes() == self.sampler.tree.leaves.tobytes()
        assert before["largest"] == self.sampler.largest

    @invariant()
    def leaves_are_those_of_the_model(self):
        ring, tree = self.replay.ring, self.sampler.tree
        self.priorities.follow(self.model.valid())
        self.ids = np.arange(-3, (ring.added.max() + 3) * ring.num_lanes)
        expected = self.priorities.by_slot(ring.num_lanes, ring.rows)
        np.testing.assert_array_equal(tree.leaves > 0, expected > 0)
        np.testing.assert_allclose(tree.leaves, expected, rtol=1e-12)
        np.testing.assert_allclose(tree.total, expected.sum(), rtol=1e-9)

    @invariant()
    def a_sample_holds_valid_rows_or_is_refused(self):
        windows = self.model.valid()
        if windows:
            self.replay.sample(self.batch)
            self.priorities.follow(windows)
            assert_rows_equal(self.batch._replace(weight=np.ones(8, np.float32)), windows)
            weights = self.priorities.weights(self.batch.index, self.beta)
            np.testing.assert_allclose(self.batch.weight, weights, rtol=1e-5, atol=1e-30)
            assert self.batch.weight.max() == 1.0
        else:
            with pytest.raises(RuntimeError, match="nothing to sample"):
                self.replay.sample(self.batch)


PrioritizedMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None
)
TestPrioritizedAgainstItsModel = PrioritizedMachine.TestCase
TestPrioritizedAgainstItsModelAtLength = at_length(PrioritizedMachine.TestCase)
