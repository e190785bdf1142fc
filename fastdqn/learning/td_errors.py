"""TDErrors: the priorities that an update would return, without the update."""

from typing import Any

import torch
from torch import Tensor

from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.graph_capture import eager
from fastdqn.learning.learner import Learner
from fastdqn.replay.batch import Batch


class TDErrors:
    """Computes priorities with the weights of a learner as both online and target network.

    Args:
        learner: A learner by autograd on the CPU, which takes no step.
    """

    def __init__(self, learner: Learner):
        self._learner, self._steps = learner, AutogradSteps(learner, eager)

    def __call__(self, batch: Any) -> Tensor:
        """Returns float32[B] for a batch of the learner's batch size, arrays of the host."""
        learner = self._learner
        if learner.target is not learner.online:
            learner.target.copy_from(learner.online)
        learner.draws.refresh()
        tensors = Batch(*(None if each is None else torch.from_numpy(each) for each in batch))
        with torch.no_grad():
            return self._steps.loss(tensors, learner.draws.sets_of(1)[0])[1]
