"""Operators and kernels of an update on a device: at batch 32, their number is its time."""

import pytest

from helpers.kernel_counts import ATARI, CARTPOLE, count_update, kernels

pytestmark = pytest.mark.slow
RAINBOW = {"noisy": True, "value": "categorical", "prioritized": True, "n_steps": 3}
NATURE = {"torso": "nature", "batch_size": 32}
SMALL = {"hidden_sizes": (64, 64), "batch_size": 32}


@pytest.mark.parametrize(
    ("facts", "options", "operators", "launched"),
    [
        (ATARI, NATURE, 77, 100),
        (ATARI, NATURE | {"precision": "bf16"}, 85, 108),
        (ATARI, NATURE | RAINBOW, 147, 170),
        (ATARI, NATURE | {"value": "implicit-quantile"}, 124, 147),
        (ATARI, NATURE | {"value": "quantile"}, 102, 125),
        (ATARI, NATURE | {"munchausen": True}, 95, 118),
        (CARTPOLE, SMALL, 49, 51),
        (CARTPOLE, SMALL | RAINBOW, 106, 108),
    ],
    ids=["nature", "bf16", "Rainbow", "IQN", "QR", "Munchausen", "MLP", "MLP, Rainbow"],
)
def test_an_update_has_as_many_kernels_as_stated(facts, options, operators, launched):
    """A smaller number is progress: then the table here and in benchmarks/README.md changes."""
    counted = count_update(facts, **options)
    assert (counted.total(), kernels(counted)) == (operators, launched), dict(counted)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_hidden_layers_of_both_streams_are_one_product_on_a_device(noisy):
    counted = count_update(ATARI, **NATURE, noisy=noisy)
    assert counted["aten.baddbmm.default"] == 3  # three passes
    assert counted["aten.bmm.default"] == 2  # gradients of weights and of inputs
