"""Staging and PriorityFeedback: nothing is overwritten while it is still being read."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.priority_feedback import PriorityFeedback
from fastdqn.replay.batch import joined, new_batch
from fastdqn.state_dict import StateError
from helpers.graphs import LateStreams

CPU = torch.device("cpu")
TOGETHER, SIZE = 4, 3


def number(batch, n: int) -> None:
    """Mark a host batch as the n-th in every array, as a sampler fills it."""
    for array in batch:
        if array is not None:
            array[:] = n % 251 if array.dtype == np.uint8 else (n % 2 if array.dtype == bool else n)


class LateCopies(RuleBasedStateMachine):
    """The call order of the training loop, while both device streams run at arbitrary times.

    lag  of priorities; None: nobody wants any, and nothing but the staging holds the host back
    """

    lag: int | None = None

    def __init__(self):
        super().__init__()
        self.streams = LateStreams()
        batch = new_batch(SIZE, (2, 2), np.uint8, num_actions=2)
        self.staging = Staging(batch, CPU, TOGETHER, (self.lag or 0) + 1, self.streams)
        self.returns = PriorityFeedback(self.staging, self.lag or 0)
        self.asked, self.read, self.back = 0, [], []

    @rule(count=st.sampled_from([1, 2, 4]), pauses=st.lists(st.booleans(), max_size=6))
    def turn(self, count, pauses):
        for host in self.staging.hosts(count):
            number(host, self.asked)
            self.asked += 1
            self._run_next(pauses[:2])  # a copy that came too late would read what is filled now
        batches = self.staging.upload(count)
        self._run_next(pauses[2:4])
        priority = torch.empty(count * SIZE)
        self.streams.compute(lambda: self._learn(batches, priority))
        if self.lag is not None:
            self.returns.send(priority)
            self._run_next(pauses[4:])
            self._take(self.returns.arrived())

    def _learn(self, batches, priority) -> None:
        for batch in batches:
            told = {name: value.unique() for name, value in batch._asdict().items()}
            assert all(len(each) == 1 for each in told.values()), told
            self.read.append(int(told["index"]))
            assert int(told["obs"]) == int(told["next_obs"]) == self.read[-1] % 251
            assert bool(told["mask"]) == bool(self.read[-1] % 2)
        priority.copy_(torch.cat([batch.reward for batch in batches]) + 0.5)

    def _take(self, arrived) -> None:
        for index, priority in arrived:
            assert index.tolist() == [index[0]] * SIZE
            assert priority.tolist() == [index[0] + 0.5] * SIZE
            self.back.append(int(index[0]))

    def _run_next(self, copies_first) -> None:
        for first in copies_first:
            self.streams.run_next(self.streams.copies if first else self.streams.computing)

    @rule(copies_first=st.lists(st.booleans(), max_size=20))
    def time_passes(self, copies_first):
        self._run_next(copies_first)

    @precondition(lambda self: self.lag)
    @rule()
    def a_checkpoint_is_taken(self):
        state = self.returns.state()
        waiting = list(range(len(self.back), self.asked))
        assert state["index"].tolist() == [n for n in waiting for _ in range(SIZE)]
        again = PriorityFeedback(self.staging, 1)
        again.load_state(state)
        assert again.state()["priority"].tolist() == state["priority"].tolist()

    @invariant()
    def all_is_read_once_in_order(self):
        assert self.read == list(range(len(self.read)))
        assert self.back == list(range(len(self.back)))

    def teardown(self):
        while self.streams.run_next(self.streams.copies) or self.streams.run_next(
            self.streams.computing
        ):
            pass
        assert self.read == list(range(self.asked))


class LateReturns(LateCopies):
    lag = 1


class PromptReturns(LateCopies):
    lag = 0

    @invariant()
    def none_is_late(self):
        assert len(self.back) == self.asked


_ENOUGH = settings(max_examples=25, stateful_step_count=8, deadline=None)
TestLateCopies = LateCopies.TestCase
TestLateReturns = LateReturns.TestCase
TestPromptReturns = PromptReturns.TestCase
TestLateCopies.settings = TestLateReturns.settings = TestPromptReturns.settings = _ENOUGH


def test_a_device_batch_is_one_block_with_adjacent_observations():
    staging = Staging(new_batch(5, (4, 7), np.uint8, 3), CPU, 2, streams=LateStreams())
    for batch in staging.hosts(2):
        both = joined(batch.obs, batch.next_obs)
        assert both is not None
        both[5:] = 9
        assert (batch.next_obs == 9).all()
        assert not (batch.obs == 9).any()
        batch.index[:] = 1 << 40  # every array begins where its type may
    assert [batch.reward.dtype for batch in staging.all_devices[0]] == [torch.float32] * 2


def test_arrays_that_are_not_adjacent_are_not_joined():
    one, other = np.zeros((3, 2)), np.zeros((3, 2))
    assert joined(one, other) is None
    whole = np.zeros((3, 3, 2))
    assert joined(whole[0], whole[2]) is None
    assert joined(whole[0], whole[1][:, :1]) is None
    both = joined(whole[1], whole[2])
    assert both is not None
    assert both.shape == (6, 2)


def test_on_the_cpu_the_learner_reads_the_host_batches():
    batch = new_batch(SIZE, (2,), np.float32)
    staging = Staging(batch, CPU, together=2, slots=2)
    assert staging.host is batch
    seen = []
    for turn in range(3):
        for i, host in enumerate(staging.hosts(2)):
            number(host, 10 * turn + i)
        batches = staging.upload(2)
        seen += [int(each.reward[0]) for each in batches]
        assert [each.reward.data_ptr() for each in batches] == [
            host.reward.ctypes.data for host in staging.last_hosts(2)
        ]
    assert seen == [0, 1, 10, 11, 20, 21]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"index": np.zeros(3, np.int32)}, "index is not an array of int64"),
        ({"priority": np.zeros(4, np.float32)}, "priority has shape"),
        ({"batches": 9, "index": np.zeros(27, np.int64)}, "index has shape"),
        ({"batches": -1}, "batches is -1"),
    ],
)
def test_an_invalid_state_of_priority_feedback_is_rejected(changes, says):
    returns = PriorityFeedback(Staging(new_batch(SIZE, (2,), np.float32), CPU, 1, 2), 1)
    state = {"batches": 1, "index": np.zeros(3, np.int64), "priority": np.zeros(3, np.float32)}
    returns.load_state(state)
    with pytest.raises(StateError, match=says):
        returns.load_state(state | changes)
