"""AutogradSteps: gradient steps on batches by torch's tape, over memory that stays where it is."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastdqn.learning.adam import Adam
from fastdqn.learning.bootstrap_targets import Backup, Queries
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.random_inputs import Draws, Passes
from fastdqn.learning.target_network import TargetFollower
from fastdqn.learning.value import Value
from fastdqn.replay.batch import Batch


class Learned(Protocol):
    """What a step takes of a learner: see Learner."""

    online: FlatParameters
    target: FlatParameters
    value: Value
    backup: Backup
    draws: Draws
    optimizer: Adam
    target_follower: TargetFollower
    max_grad_norm: float | None
    loss_sum: Tensor


class AutogradSteps:
    """One step for each of some batches, in order.

    Nothing in it is read by the host, no shape depends on numbers, and what outlives a call stays
    where it is: so it may be recorded. Random inputs are drawn beforehand.
    """

    def __init__(self, learner: Learned, capture: Capture):
        self._learner = learner
        # Autograd's tape is what a compiler cannot see through: it gets the two sides of it.
        self._loss, self._descend = capture.piece(self.loss), capture.piece(self._clip_and_step)

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Priorities of all samples, values of the last batch at the actions taken: [K B], [B].

        Raises ValueError where the learner was made for fewer at once.
        """
        sets = self._learner.draws.sets
        if len(batches) > len(sets):
            raise ValueError(
                f"{len(batches)} batches came together, and the learner's draws are for "
                f"{len(sets)}: make them with together={len(batches)}"
            )
        steps = [self._step(batch, passes) for batch, passes in zip(batches, sets, strict=False)]
        priorities = [priority for priority, _ in steps]
        return priorities[0] if len(steps) == 1 else torch.cat(priorities), steps[-1][1]

    def _step(self, batch: Batch, passes: Passes) -> tuple[Tensor, Tensor]:
        learner = self._learner
        mean_loss, priority, taken = self._loss(batch, passes)
        learner.online.gradient.zero_()
        mean_loss.backward()
        self._descend()
        learner.target_follower.step(learner.online, learner.target)
        return priority, taken

    def loss(self, batch: Batch, passes: Passes) -> tuple[Tensor, Tensor, Tensor]:
        """Mean weighted loss, with its graph, priorities [B], values of the actions taken [B]."""
        learner = self._learner
        output = learner.online.module(batch.obs, passes.online_obs)
        with torch.no_grad():
            target = self._target(batch, passes)
        draw = passes.online_obs
        loss, priority, taken = learner.value.loss(output, batch.action, target, draw)
        mean_loss = torch.dot(loss, batch.weight) * (1.0 / len(loss))
        learner.loss_sum += mean_loss.detach()
        return mean_loss, priority.detach(), taken.detach()

    def _clip_and_step(self) -> None:
        if self._learner.max_grad_norm is not None:
            clip_by_norm(self._learner.online.gradient, self._learner.max_grad_norm)
        self._learner.optimizer.step()

    def _target(self, batch: Batch, draws: Passes) -> Tensor:
        learner = self._learner
        value, online, target = learner.value, learner.online.module, learner.target.module
        next_output = target(batch.next_obs, draws.target_next)
        bootstrap = learner.backup(
            Queries(
                target_next=lambda: value.expected(next_output),
                online_next=lambda: value.expected(online(batch.next_obs, draws.online_next)),
                target_obs=lambda: value.expected(target(batch.obs, draws.target_obs)),
                action=batch.action,
                next_mask=batch.next_mask,
                mask=batch.mask,
            )
        )
        return value.target(next_output, bootstrap, batch.reward, batch.discount)


def clip_by_norm(gradient: Tensor, max_norm: float) -> None:
    """Scale gradient [P] in place so that its Euclidean norm is at most max_norm.

    Pascanu et al. 2013 (arXiv 1211.5063), Algorithm 1; 1e-6 as in torch.nn.utils.
    """
    norm = torch.linalg.vector_norm(gradient)
    gradient.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
