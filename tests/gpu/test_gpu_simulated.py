"""The tests of a GPU on a simulated one, with few updates."""

import pytest

from gpu import test_gpu
from helpers.simulated_cuda import simulated_cuda

# What a real driver and its profiler show.
_OF_A_DRIVER = {
    "test_a_call_of_several_updates_is_one_launch",
    "test_a_profile_reports_the_device_s_own_kernels_and_memory",
}
_TESTS = {name: each for name, each in vars(test_gpu).items() if name.startswith("test_")}
globals().update({name: each for name, each in _TESTS.items() if name not in _OF_A_DRIVER})
whole_float32 = test_gpu.whole_float32
pytestmark = pytest.mark.slow


@pytest.fixture
def updates():
    return 6


@pytest.fixture(autouse=True)
def device():
    with simulated_cuda() as machine:
        yield
    assert machine.problems == []


def test_the_list_of_excluded_tests_is_current():
    assert _TESTS.keys() > _OF_A_DRIVER
