"""AutogradSteps: gradient steps by autograd, on memory that stays in place."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Backup, Queries
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.optimizer import Optimizer
from fastdqn.learning.random_inputs import Draws, Passes
from fastdqn.learning.target_network import TargetUpdate
from fastdqn.learning.value import Value
from fastdqn.part_error import PartError
from fastdqn.replay.batch import Batch


class Learned(Protocol):
    """The parts of a Learner that a step uses."""

    online: FlatParameters
    target: FlatParameters
    value: Value
    backup: Backup
    draws: Draws
    optimizer: Optimizer
    target_update: TargetUpdate
    max_grad_norm: float | None
    loss_sum: Tensor


class AutogradSteps:
    """Takes one gradient step on each of several batches, in order.

    The host reads no result, no shape depends on values, and persistent tensors stay in place, so
    a CUDA graph can capture it. Random inputs are drawn beforehand.
    """

    def __init__(self, learner: Learned, capture: Capture):
        self._learner = learner
        # torch.compile cannot trace backward(), so it compiles what comes before and after.
        self._loss, self._descend = capture.piece(self.loss), self._clip_and_step
        if learner.optimizer.compiles:
            self._descend = capture.piece(self._clip_and_step)

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Takes the steps.

        Returns:
            Priorities of all samples, [K B], and values of the last batch's actions, [B].

        Raises:
            ValueError: There are more batches than the learner has random inputs for.
        """
        sets = self._learner.draws.sets_of(len(batches))
        steps = [self._step(batch, passes) for batch, passes in zip(batches, sets, strict=True)]
        priorities = [priority for priority, _ in steps]
        return priorities[0] if len(steps) == 1 else torch.cat(priorities), steps[-1][1]

    def _step(self, batch: Batch, passes: Passes) -> tuple[Tensor, Tensor]:
        learner = self._learner
        mean_loss, priority, taken = self._loss(batch, passes)
        self._backward(mean_loss)
        self._descend()
        learner.target_update.step(learner.online, learner.target)
        return priority, taken

    def _backward(self, mean_loss: Tensor) -> None:
        self._learner.online.gradient.zero_()
        mean_loss.backward()

    def loss(self, batch: Batch, passes: Passes) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the mean weighted loss, priorities [B], and values of the actions taken [B]."""
        learner = self._learner
        output = learner.online.module(batch.obs, passes.online_obs)
        with torch.no_grad():
            target = self._target(batch, passes)
        draw = passes.online_obs
        loss, priority, taken = learner.value.loss(output, batch.action, target, draw)
        for name, each in (("loss", loss), ("priority", priority), ("taken", taken)):
            if each.shape != batch.weight.shape or (name == "loss" and each.dtype != torch.float32):
                raise PartError(
                    f"{type(learner.value).__name__}.loss() returns the {name} {each.dtype} "
                    f"{list(each.shape)}, must be float32 {list(batch.weight.shape)}"
                )
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
        backup = learner.backup

        def online_next() -> Tensor:
            _require(backup.asks_online_next, backup, "online_next")
            return value.expected(online(batch.next_obs, draws.online_next))

        def target_obs() -> Tensor:
            _require(backup.asks_target_obs, backup, "target_obs")
            return value.expected(target(batch.obs, draws.target_obs))

        bootstrap = backup(
            Queries(
                target_next=lambda: value.expected(next_output),
                online_next=online_next,
                target_obs=target_obs,
                action=batch.action,
                next_mask=batch.next_mask,
                mask=batch.mask,
            )
        )
        return value.target(next_output, bootstrap, batch.reward, batch.discount)


def _require(declared: bool, backup: Backup, query: str) -> None:
    """Raises PartError if a backup calls a query that it does not declare."""
    if not declared:
        raise PartError(
            f"{type(backup).__name__} calls {query}() and does not declare it: set "
            f"asks_{query} = True, so that random inputs are drawn for it"
        )


def clip_by_norm(gradient: Tensor, max_norm: float) -> None:
    """Scales gradient [P] in place, so that its Euclidean norm is at most max_norm.

    Source: Pascanu et al. 2013 (arXiv 1211.5063), Algorithm 1; 1e-6 as in torch.nn.utils.
    """
    norm = torch.linalg.vector_norm(gradient)
    gradient.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
