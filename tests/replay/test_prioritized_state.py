"""A prioritized replay continues from its state and rejects one that does not fit."""

import numpy as np
import pytest

from fastdqn.state_dict import StateError
from helpers.oracle_priorities import draw, live, make_prioritized, with_leaves


def test_a_replay_continues_from_a_state_with_equal_bytes():
    rng, make = np.random.default_rng(5), (3, 11, 2, 0.5, 2, (2,))
    replay, sampler = make_prioritized(*make, seed=1)
    segments, saved = [], np.zeros(3, np.int64)
    for turn in range(40):
        live(replay, rng, 5)
        replay.update_priorities(draw(replay, 16).index, rng.exponential(size=16))
        segments.append(replay.rows_since(saved))
        saved = segments[-1].last
        other, twin = make_prioritized(*make, seed=9)
        other.load_state(replay.state(), segments)
        assert twin.tree.nodes.tobytes() == sampler.tree.nodes.tobytes()
        for each in (replay, other):
            again = np.random.default_rng(turn)
            live(each, again, 7)
            each.update_priorities(draw(each, 16).index, again.exponential(size=16))
        for one, two in zip(draw(replay, 32)[:7], draw(other, 32)[:7], strict=True):
            assert one.tobytes() == two.tobytes()
        assert twin.tree.nodes.tobytes() == sampler.tree.nodes.tobytes()
        assert twin.largest == sampler.largest


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("field", "wrong", "says"),
    [
        ("leaves", lambda leaves: changed(leaves, 0, np.nan), "leaves has nan"),
        ("leaves", lambda leaves: changed(leaves, 0, np.inf), "leaves has inf"),
        ("leaves", lambda leaves: changed(leaves, 0, -1.0), "leaves has -1.0"),
        (
            "leaves",
            lambda leaves: changed(leaves, 0, 9.0),
            "leaves has 9.0, must be from 0 to largest, 4",
        ),
        (
            "leaves",
            lambda leaves: changed(leaves, 0, 0.0),
            "leaves has 0.0 at slot 0, must be more than 0",
        ),
        ("leaves", lambda leaves: changed(leaves, 3, 1.0), "leaves has 1.0 at slot .*, must be 0"),
        ("leaves", lambda leaves: changed(leaves, 4, 1.0), "leaves has 1.0 at slot .*, must be 0"),
        ("leaves", lambda leaves: leaves[:-1], "leaves has shape"),
        ("leaves", lambda leaves: leaves.astype(np.float32), "leaves has dtype"),
        ("largest", lambda _: 0.5, "largest is 0.5"),
        ("largest", lambda _: 1e300, "largest is 1e"),
        ("largest", lambda _: float("nan"), "largest is nan"),
        ("rng", lambda rng: rng[:3], "rng has shape"),
    ],
)
def test_a_state_that_does_not_fit_the_rows_is_rejected_by_field(field, wrong, says):
    replay, sampler = with_leaves([1.0, 2.0, 4.0])
    state = sampler.state()
    sampler.load_state(state, replay.ring, 1)
    with pytest.raises(StateError, match=says):
        sampler.load_state(state | {field: wrong(state[field])}, replay.ring, 1)
    del state[field]
    with pytest.raises(StateError, match=f"{field} is missing"):
        sampler.load_state(state, replay.ring, 1)
