"""An exception of a signal handler, anywhere in an update, leaves nothing behind."""

import pytest
import torch

from fastdqn.kernels import jit
from fastdqn.learning.fused_family import FusedFamilyStep
from fastdqn.learning.fused_learner import FusedStep
from helpers.fused import make_batches
from helpers.fused_family import make_learner
from helpers.interrupts import interrupted

pytestmark = pytest.mark.skipif(not jit.COMPILES, reason="Numba is switched off")


def test_the_mode_of_denormal_numbers_is_restored():
    learner = make_learner(FusedStep)
    (batch,) = make_batches(1)
    places = 0
    try:
        for place in interrupted(lambda: learner.update(batch), ("/learner.py", "precision.py")):
            assert (torch.tensor(1e-39) * 0.9).view(torch.int32) != 0, place
            places += 1
    finally:
        torch.set_flush_denormal(False)
    assert places > 5


@pytest.mark.parametrize("step", [FusedStep, FusedFamilyStep])
def test_a_batch_that_was_adopted_in_part_is_adopted_again(step):
    """Its arrays would otherwise be those of the batch before, or of another size."""
    (first,), (second,) = make_batches(1, size=40), make_batches(1, size=70)
    expected = make_learner(step, size=70)
    start = expected.online.weights.clone()
    wanted = expected._step(second, expected.draws.passes)
    learner = make_learner(step, size=70)
    places = 0

    def adopt():
        learner._step._batch = None
        learner._step._adopt(first)
        learner._step._adopt(second)

    for place in interrupted(adopt, ("fused_learner.py", "fused_family.py")):
        learner.online.weights.copy_(start)
        priority = learner._step(second, learner.draws.passes)
        assert torch.equal(priority, wanted), place
        places += 1
    assert places > 20
