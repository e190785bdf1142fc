"""Generators and plain values are restored from a state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdqn.envs.rng_state import make_generator, read_generator
from fastdqn.state_dict import copy_plain
from helpers.env_states import PCG, changed, through_files

KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_generator_continues_from_its_plain_state(kind):
    generator = np.random.Generator(getattr(np.random, kind)(7))
    for drawn in range(9):
        generator.integers(5, size=drawn, dtype=np.int32)  # leaves half a word behind
        other = make_generator(through_files(read_generator(generator)))
        assert generator.bytes(4) == other.bytes(4)
        assert generator.normal() == other.normal()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (None, "generator.bit_generator is missing"),
        ({}, "generator.bit_generator is missing"),
        (PCG | {"bit_generator": "Generator"}, "generator.bit_generator is 'Generator'"),
        (PCG | {"bit_generator": ["PCG64"]}, "generator.bit_generator is"),
        (PCG | {"state": 1}, "generator.state is of type int: a dict"),
        (PCG | {"uinteger": "1"}, "generator.uinteger is of type str"),
        (PCG | {"extra": 1}, "generator.extra is not known"),
    ],
)
def test_an_invalid_generator_state_is_rejected_by_field(state, says):
    with pytest.raises(ValueError, match=says):
        make_generator(state)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("MT19937", "state.pos", 625),
        ("MT19937", "state.pos", -1),
        ("MT19937", "state.key", np.zeros(623, np.uint32)),
        ("Philox", "buffer_pos", 5),
        ("Philox", "buffer_pos", -1),
        ("SFC64", "state.state", np.zeros(4, np.int64)),
    ],
)
def test_a_generator_never_reads_outside_of_its_own_arrays(kind, path, value):
    state = read_generator(np.random.Generator(getattr(np.random, kind)(0)))
    with pytest.raises(ValueError, match=f"generator.{path}"):
        make_generator(changed(state, path, value))


def test_a_custom_bit_generator_is_not_read():
    class Mine(np.random.PCG64):
        pass

    with pytest.raises(ValueError, match="Mine is not one of PCG64"):
        read_generator(np.random.Generator(Mine(0)))


# -- plain values


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
        | st.lists(st.integers() | st.text(max_size=3), max_size=3),
        lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_plain_values_are_copied_as_they_are(value):
    copied = copy_plain(value, "value")
    assert copied == value
    assert through_files(copied) == value
