"""DeviceStore: the observations of a FrameStore or RowStore, in the memory of a device."""

import numpy as np
import pytest
import torch

from fastdqn.learning.cuda_streams import CudaStreams
from fastdqn.learning.device_store import DeviceStore
from fastdqn.replay import FrameStore, Replay, Ring, RowStore, UniformSampler, UnstackedError
from fastdqn.replay.batch import Batch
from helpers.capture import CPU
from helpers.simulated_cuda import simulated_cuda

LANES, ROWS = 3, 11
FRAME = (2, 3)


def stores(stack: int, dtype=np.uint8, device=CPU):
    """A store of the host and one of a device, of equal contents."""
    if stack == 1:
        host = RowStore(LANES, ROWS, FRAME, dtype)
        return host, DeviceStore(LANES, ROWS, FRAME, np.dtype(dtype), 1, device)
    shape = (stack, *FRAME)
    host = FrameStore(LANES, ROWS, shape, dtype)
    return host, DeviceStore(LANES, ROWS, shape, np.dtype(dtype), stack, device)


class Episodes:
    """Random episodes in the lanes of two replays."""

    def __init__(self, pair, stack: int, dtype):
        self.rng, self.stack, self.dtype = np.random.default_rng(0), stack, dtype
        self.replays = [
            Replay(Ring(LANES, ROWS, stack), store, UniformSampler(3), n_steps=2) for store in pair
        ]
        self.obs = self._new(LANES)
        for replay in self.replays:
            replay.start(np.arange(LANES), self.obs)

    def step(self):
        lanes = np.flatnonzero(self.rng.random(LANES) < 0.8)
        ends = self.rng.random(len(lanes)) < 0.2
        following = self._new(len(lanes))
        if self.stack > 1:
            following[:, :-1] = self.obs[lanes][:, 1:]
        self.obs[lanes] = following
        rewards = self.rng.normal(size=len(lanes))
        for replay in self.replays:
            replay.add(lanes, lanes % 2, rewards, following, ends)
        started = lanes[ends]
        if len(started):
            self.obs[started] = self._new(len(started))
            for replay in self.replays:
                replay.start(started, self.obs[started])

    def _new(self, count: int) -> np.ndarray:
        shape = (count, *FRAME) if self.stack == 1 else (count, self.stack, *FRAME)
        return (self.rng.random(shape) * 250).astype(self.dtype)


def tensors(batch: Batch) -> Batch:
    return Batch(*(None if each is None else torch.from_numpy(each) for each in batch))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_, np.int64])
@pytest.mark.parametrize("stack", [1, 4])
def test_it_holds_what_a_store_of_the_host_holds(stack, dtype):
    episodes = Episodes(stores(stack, dtype), stack, dtype)
    (host, device), (on_host, on_device) = (
        episodes.replays, [replay.new_batch(8) for replay in episodes.replays]
    )  # fmt: skip
    for _ in range(60):
        episodes.step()
        if not len(host) or not host.ring.is_valid(np.arange(3 * 30), 2).any():
            continue
        host.sample(on_host)
        device.sample(on_device)
        assert on_device.obs.shape == (8,)
        observed = device.store.observed(tensors(on_device))  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("obs", "next_obs", "reward", "action", "discount"):
            np.testing.assert_array_equal(getattr(observed, name), getattr(on_host, name))
    rows = [replay.rows_since(np.zeros(LANES, np.int64)) for replay in episodes.replays]
    for name, column in rows[0].columns.items():
        np.testing.assert_array_equal(rows[1].columns[name], column)
    again = Replay(Ring(LANES, ROWS, stack), stores(stack, dtype)[1], UniformSampler(3), n_steps=2)
    again.load_state(device.state(), [rows[1]])
    slots = again.ring.slots_of(again.oldest() + stack - 1, again.ring.added)
    found, expected = (np.empty((len(slots), *host.store.obs_shape), dtype) for _ in range(2))
    again.store.gather(slots, found)
    host.store.gather(slots, expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stack", [1, 4])
def test_the_newest_observations_are_those_that_the_policy_acts_on(stack):
    episodes = Episodes(stores(stack), stack, np.uint8)
    host, device = episodes.replays
    for _ in range(3 * ROWS):
        episodes.step()
        lanes = np.flatnonzero(episodes.rng.random(LANES) < 0.7)
        slots = device.newest(lanes)
        assert slots is not None
        assert host.newest(lanes) is None
        found = device.store.observations(torch.from_numpy(slots))  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_array_equal(found, episodes.obs[lanes])


def test_an_observation_that_is_not_stacked_is_named():
    _, store = stores(4)
    obs = np.arange(4 * 6, dtype=np.uint8).reshape(1, 4, *FRAME)
    store.write(np.array([ROWS]), obs)
    with pytest.raises(UnstackedError, match="env 1: an observation does not repeat the newest 3"):
        store.write(np.array([ROWS + 1]), obs)


def test_a_stack_of_another_shape_is_rejected():
    with pytest.raises(ValueError, match="are not 4 stacked frames"):
        DeviceStore(1, 8, (3, 2), np.dtype(np.uint8), 4, CPU)


@pytest.mark.parametrize("missing", [None, "wait"])
def test_pinned_memory_is_not_written_before_its_copy_is_complete(monkeypatch, missing):
    with simulated_cuda() as machine:
        _, store = stores(4, device=torch.device("cuda"))
        if missing is not None:
            monkeypatch.setattr(CudaStreams, missing, lambda self, event: None)
        for row in range(6):
            store.put(np.array([row]), np.full((1, *FRAME), row, np.uint8))
    assert bool(machine.problems) == (missing is not None)


def test_every_environment_is_compared_in_turn():
    _, store = stores(4)
    obs = np.zeros((LANES, 4, *FRAME), np.uint8)
    watched = set()
    for row in range(2 * LANES):
        store.write(np.arange(LANES) * ROWS + row, obs)
        assert store._watched is not None
        watched.add(store._watched[0] // ROWS)
    assert watched == set(range(LANES))
