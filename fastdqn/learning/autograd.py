"""AutogradSteps: gradient steps by autograd, on memory that stays in place."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import Backup, Queries
from fastdqn.learning.cuda_streams import one_by_one
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.optimizer import Optimizer
from fastdqn.learning.random_inputs import Draw, Draws, Passes
from fastdqn.learning.target_network import TargetUpdate
from fastdqn.learning.value import Value
from fastdqn.part_error import PartError
from fastdqn.replay.batch import Batch

# A forward pass: from observations and random inputs to outputs.
Pass = Callable[[Tensor, Draw], Tensor]
# Output of the target network at next_obs, and values of online_next and target_obs, if asked.
Ahead = tuple[Tensor, Tensor | None, Tensor | None]


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
    average: Callable[[Tensor], None] | None
    loss_sum: Tensor
    observed: Callable[[Batch], Batch]


class AutogradSteps:
    """Takes one gradient step on each of several batches, in order.

    The host reads no result, no shape depends on values, and persistent tensors stay in place, so
    a CUDA graph can capture it.
    """

    def __init__(self, learner: Learned, capture: Capture):
        self._learner = learner
        self._reciprocals: dict[int, Tensor] = {}  # 1 / B on the device
        # torch.compile cannot trace backward(), so it compiles what comes before and after.
        self._loss, self._descend = capture.piece(self.loss), self._clip_and_step
        # Other torsos may change tensors of their own in a pass.
        is_own = getattr(learner.online.module, "shares_inputs", False)
        self._branches = capture.branches if is_own else one_by_one
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
        loss, priority, taken = self._loss(learner.observed(batch), passes)
        self._backward(loss, len(priority))
        if learner.average is not None:
            learner.average(learner.online.gradient)
        self._descend()
        learner.target_update.step(learner.online, learner.target)
        return priority, taken

    def _forward(self, batch: Batch, passes: Passes) -> tuple[Tensor, Ahead]:
        """Returns the output of the online network at obs, and the values without a gradient."""
        online, target = self._networks(batch)
        if self._branches is one_by_one:
            output = online(batch.obs, passes.online_obs)
            with torch.no_grad():
                return output, self._values_ahead(batch, passes, online, target)
        try:
            with torch.no_grad():
                ahead = self._values_ahead(batch, passes, online, target)
            return online(batch.obs, passes.online_obs), ahead
        finally:
            self._branches.end()

    def _backward(self, loss: Tensor, batch_size: int) -> None:
        if batch_size not in self._reciprocals:
            self._reciprocals[batch_size] = torch.tensor(1.0 / batch_size, device=loss.device)
        self._learner.online.take_gradient(loss, self._reciprocals[batch_size])

    def loss(self, batch: Batch, passes: Passes) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the sum of weighted losses, priorities [B], and values of the actions [B]."""
        learner = self._learner
        output, ahead = self._forward(batch, passes)
        with torch.no_grad():
            target = self._target(batch, ahead)
        draw = passes.online_obs
        loss, priority, taken = learner.value.loss(output, batch.action, target, draw)
        for name, each in (("loss", loss), ("priority", priority), ("taken", taken)):
            if each.shape != batch.weight.shape or (name == "loss" and each.dtype != torch.float32):
                raise PartError(
                    f"{type(learner.value).__name__}.loss() returns the {name} {each.dtype} "
                    f"{list(each.shape)}, must be float32 {list(batch.weight.shape)}"
                )
        weighted = torch.dot(loss, batch.weight)
        learner.loss_sum.add_(weighted.detach(), alpha=1.0 / len(loss))
        return weighted, priority.detach(), taken.detach()

    def _clip_and_step(self) -> None:
        if self._learner.max_grad_norm is not None:
            clip_by_norm(self._learner.online.gradient, self._learner.max_grad_norm)
        self._learner.optimizer.step()

    def _networks(self, batch: Batch) -> tuple[Pass, Pass]:
        """Returns the forward passes of online and target network.

        Observations of a batch are converted once for all passes, if possible.
        """
        online: Any = self._learner.online.module
        target: Any = self._learner.target.module
        with torch.no_grad():
            for cast in (getattr(each, "cast", None) for each in (online, target)):
                if cast is not None:
                    cast.refresh()
        if not getattr(online, "shares_inputs", False):
            return online, target
        with torch.no_grad():
            both = adjacent(batch.obs, batch.next_obs)
            if both is None:
                inputs = online.inputs(batch.obs), online.inputs(batch.next_obs)
            else:
                inputs = online.inputs(both).split(len(batch.obs))

        def of(network: Any) -> Pass:
            return lambda obs, draw: network(inputs[obs is batch.next_obs], draw, converted=True)

        return of(online), of(target)

    def _values_ahead(self, batch: Batch, draws: Passes, online: Pass, target: Pass) -> Ahead:
        """Starts the passes without a gradient, as branches.

        Returns:
            Output of the target network at next_obs, and values of online_next and target_obs.
        """
        start, backup, value = self._branches.start, self._learner.backup, self._learner.value
        next_output = start(lambda: target(batch.next_obs, draws.target_next))
        online_next = target_obs = None
        if backup.asks_online_next:
            online_next = start(lambda: value.expected(online(batch.next_obs, draws.online_next)))
        if backup.asks_target_obs:
            target_obs = start(lambda: value.expected(target(batch.obs, draws.target_obs)))
        return next_output, online_next, target_obs

    def _target(self, batch: Batch, ahead: Ahead) -> Tensor:
        value, backup = self._learner.value, self._learner.backup
        next_output, online_next, target_obs = ahead
        bootstrap = backup(
            Queries(
                target_next=lambda: value.expected(next_output),
                online_next=lambda: _declared(online_next, backup, "online_next"),
                target_obs=lambda: _declared(target_obs, backup, "target_obs"),
                action=batch.action,
                next_mask=batch.next_mask,
                mask=batch.mask,
            )
        )
        return value.target(next_output, bootstrap, batch.reward, batch.discount)


def adjacent(first: Tensor, second: Tensor) -> Tensor | None:
    """Returns a view of two tensors of one shape that follow each other in memory, or None."""
    if torch.compiler.is_compiling() or first.shape != second.shape:
        return None
    if not (first.is_contiguous() and second.is_contiguous()):
        return None
    end = int(first.storage_offset()) + first.numel()
    one = first.untyped_storage()._cdata == second.untyped_storage()._cdata
    if not one or int(second.storage_offset()) != end or first.dtype != second.dtype:
        return None
    return first.as_strided(
        (2 * len(first), *first.shape[1:]), first.stride(), int(first.storage_offset())
    )


def _declared(values: Tensor | None, backup: Backup, query: str) -> Tensor:
    """Returns the values of a query; raises PartError if the backup does not declare it."""
    if values is None:
        raise PartError(
            f"{type(backup).__name__} calls {query}() and does not declare it: set "
            f"asks_{query} = True, so that random inputs are drawn for it"
        )
    return values


def clip_by_norm(gradient: Tensor, max_norm: float) -> None:
    """Scales gradient [P] in place, so that its Euclidean norm is at most max_norm.

    Source: Pascanu et al. 2013 (arXiv 1211.5063), Algorithm 1.
    """
    excess = torch.linalg.vector_norm(gradient).div_(max_norm)
    gradient.div_(excess.clamp_(min=1.0))
