"""RowStore and its arrays return what was stored, bit for bit, for every dtype."""

import numpy as np
import pytest

from fastdqn.replay import RowStore
from helpers.oracles import make_replay, read_rows


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 84, 84), np.uint8), ((3, 5, 7), np.uint8), ((1,), np.uint8), ((6,), np.uint8),
        ((10, 10, 4), np.bool_), ((3,), np.bool_), ((), np.bool_), ((), np.uint8), ((5,), np.int8),
        ((), np.float32), ((4,), np.float32), ((3,), np.float32), ((), np.float64), ((2,), ">f4"),
    ],
)  # fmt: skip
def test_observations_are_returned_unchanged(shape, dtype):
    rng, lanes, slots = np.random.default_rng(0), 2, np.array([0, 3, 9, 5])
    store = RowStore(lanes, 5, shape, dtype)
    obs = rng.integers(0, 2 if dtype is np.bool_ else 100, (4, *shape)).astype(dtype)
    store.write(slots, obs)
    out = np.zeros((6, *shape), dtype)
    store.gather(np.array([9, 0, 3, 5, 9, 9]), out)
    np.testing.assert_array_equal(out, obs[[2, 0, 1, 3, 2, 2]])


def test_a_write_changes_no_other_slot():
    store = RowStore(1, 4, (3, 3), np.uint8)
    store.write(np.arange(4), np.full((4, 3, 3), 7, np.uint8))
    store.write(np.array([2]), np.zeros((1, 3, 3), np.uint8))
    out = np.zeros((4, 3, 3), np.uint8)
    store.gather(np.arange(4), out)
    assert out.reshape(4, -1).min(axis=1).tolist() == [7, 7, 0, 7]


def test_strided_and_wider_observations_are_converted():
    replay = make_replay(num_lanes=2, obs_shape=(2, 3))
    obs = np.arange(12.0).reshape(3, 2, 2).T  # float64, Fortran order
    replay.start([0, 1], obs)
    replay.add([0, 1], [0, 1], [1.0, 2.0], obs[::-1])
    batch = read_rows(replay, np.array([0, 1]))
    np.testing.assert_array_equal(batch.obs, obs)
    np.testing.assert_array_equal(batch.next_obs, obs[::-1])


def test_batches_have_the_documented_types():
    batch = make_replay(obs_shape=(5, 3), obs_dtype=np.uint8).new_batch(7)
    assert (batch.obs.shape, batch.obs.dtype) == ((7, 5, 3), np.uint8)
    assert (batch.next_obs.shape, batch.next_obs.dtype) == ((7, 5, 3), np.uint8)
    assert batch.action.dtype == batch.index.dtype == np.int64
    assert batch.reward.dtype == batch.discount.dtype == batch.weight.dtype == np.float32
    assert batch.next_mask is None
