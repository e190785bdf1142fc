"""ObsReader equals Gymnasium's flattening; unsupported spaces are one line."""

from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn.envs import EnvError, EnvStream, ObsReader

numbers = st.sampled_from([np.uint8, np.int8, np.int32, np.float32, np.float64, np.bool_])
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def box(dtype, shape) -> spaces.Box:
    high = {"f": 9.0, "b": 1}.get(np.dtype(dtype).kind, 100)
    low = -high if np.dtype(dtype).kind in "if" else 0
    return spaces.Box(low, high, shape, cast(Any, dtype))


leaves = st.one_of(
    st.builds(box, numbers, shapes),
    st.tuples(st.integers(1, 5), st.integers(-3, 3)).map(
        lambda pair: spaces.Discrete(pair[0], start=pair[1])
    ),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.just(spaces.MultiDiscrete([3, 4], start=[2, -1])),
    st.just(spaces.MultiDiscrete(np.array([[1, 2], [3, 4]]))),
    st.sampled_from([3, (2, 2)]).map(spaces.MultiBinary),
)  # fmt: skip
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("zaqm"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=5,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(nested, st.integers(1, 4), st.integers(0, 2**31))
def test_observations_are_flattened_as_in_gymnasium(space, num_lanes, seed):
    space.seed(seed)
    samples = [space.sample() for _ in range(num_lanes)]
    batch = concatenate(space, samples, create_empty_array(space, num_lanes))
    assert batch in batch_space(space, num_lanes)
    read = ObsReader(space)(batch)
    for lane, sample in enumerate(samples):
        expected = np.asarray(spaces.flatten(space, sample), np.float32)
        np.testing.assert_array_equal(read[lane].reshape(-1).astype(np.float32), expected)


def test_a_box_keeps_its_shape_and_one_hot_is_kept_in_bytes():
    assert ObsReader(box(np.float64, (2, 3))).shape == (2, 3)
    for space in (
        spaces.Discrete(7, start=-2),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(7),
    ):
        reader = ObsReader(space)
        assert (reader.shape, reader.dtype, reader.scale) == ((7,), np.uint8, 1.0)


def test_bytes_beside_other_numbers_are_scaled_as_the_network_would():
    pixels = spaces.Box(0, 255, (2,), np.uint8)
    reader = ObsReader(spaces.Dict(a=pixels, b=box(np.float32, (1,))))
    read = reader({"a": np.array([[0, 255]], np.uint8), "b": np.array([[7.0]], np.float32)})
    assert read.tolist() == [[0.0, 1.0, 7.0]]
    alone = ObsReader(spaces.Dict(a=pixels, b=pixels))
    assert (alone.dtype, alone.scale) == (np.uint8, 1 / 255)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([3, 3])])
def test_a_value_outside_its_space_is_rejected(space):
    for value in (-1, 4):
        given = np.full((1, *space.shape), value)
        with pytest.raises(ValueError, match="outside the space"):
            ObsReader(space)(given)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Discrete(10**16), "has 10,000,000,000,000,000 numbers .*, the limit is"),
        (spaces.Text(4), "Text.* has no fixed number of values.*TransformObservation"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence.* no fixed number of values"),
        (spaces.OneOf([spaces.Discrete(2)]), "OneOf.* no fixed number of values"),
        (spaces.Graph(spaces.Discrete(2), None), "Graph.* no fixed number of values"),
        (
            spaces.Dict(board=spaces.Discrete(2), chat=spaces.Text(4)),
            r"\['chat'\] is Text.*FilterObservation",
        ),
    ],
)
def test_an_unsupported_space_is_rejected_with_a_wrapper_that_helps(space, says):
    with pytest.raises(ValueError, match=says):
        ObsReader(space)


class Mixed(gymnasium.Env):
    """Observes its step count in three ways; episodes last three steps."""

    def __init__(self, wrong: Any = None):
        self.observation_space = spaces.Dict(
            count=spaces.Discrete(5, start=10), at=spaces.Box(-9, 9, (), np.float64),
            pair=spaces.Tuple((spaces.MultiBinary(2), spaces.Box(0, 9, (1,), np.int64))),
        )  # fmt: skip
        self.action_space = spaces.Discrete(2, start=3)
        self.t, self.wrong = 0, wrong

    def _observe(self):
        at = self.wrong if self.wrong is not None and self.t == 2 else self.t / 2
        return {
            "count": 10 + self.t, "at": np.float64(at) if np.ndim(at) == 0 else at,
            "pair": (np.array([self.t % 2, 1], np.int8), np.array([self.t])),
        }  # fmt: skip

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observe(), {}

    def step(self, action) -> tuple[Any, float, bool, bool, dict]:
        assert action in self.action_space
        self.t += 1
        return self._observe(), 1.0, False, self.t == 3, {}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_nested_observations_are_equal_in_every_mode(mode):
    stream = EnvStream(SyncVectorEnv([Mixed] * 2, autoreset_mode=mode))
    stream.start(seed=0)
    space = Mixed().observation_space
    seen = 0
    while seen < 6:
        stream.send(np.zeros(2, np.int64))
        step = stream.recv()
        for made, last in enumerate(step.next_obs):
            seen += 1
            one = Mixed()
            one.t = int(last[:5].argmax())
            assert step.truncated[made] == (one.t == 3)
            np.testing.assert_array_equal(last, spaces.flatten(space, one._observe()))


def test_a_wrong_shape_inside_a_dict_names_environment_and_step():
    stream = EnvStream(SyncVectorEnv([lambda: Mixed(), lambda: Mixed(np.zeros(2))]))
    stream.start(seed=0)
    stream.send(np.zeros(2, np.int64))
    stream.recv()
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match=r"env 1, step 2 \(seed 1, last action 3\)"):
        stream.recv()
