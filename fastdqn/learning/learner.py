"""Learner: one gradient step on one batch, and the target network that follows it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastdqn.learning.adam import Adam
from fastdqn.learning.backup import Backup, Queries
from fastdqn.learning.capture import Capture, eager
from fastdqn.learning.draws import Draws
from fastdqn.learning.flat import FlatParameters
from fastdqn.learning.staging import from_host, to_host
from fastdqn.learning.target import TargetFollower
from fastdqn.learning.value import Value
from fastdqn.plain import State, take, take_count, take_state
from fastdqn.replay.batch import Batch


class Report(NamedTuple):
    """What happened since the last report.

    loss  mean over its updates; q_value  mean over the last batch, at the actions taken
    """

    loss: float
    q_value: float
    updates: int


class Learner:
    """Owns the weights and everything that changes them.

    online      flattened network in train mode
    value       what an output means; backup  which actions the target looks at
    draws       the random inputs of each update, fresh for every one
    optimizer   over online's flat tensors; max_grad_norm  global-norm clip, None: no clip
    target_follower  makes the target, equal at first; hard copy or Polyak, by the count of updates
    capture     runs the pieces of an update, see capture.py
    make_step   gives what stands in for the pieces: it takes the step on a batch, leaves loss_sum
                and taken behind, and returns the priorities; None: autograd

    update() never waits for the device: nothing in it is read back to the host.
    """

    def __init__(
        self,
        online: FlatParameters,
        value: Value,
        backup: Backup,
        draws: Draws,
        optimizer: Adam,
        target_follower: TargetFollower,
        max_grad_norm: float | None,
        capture: Capture = eager,
        make_step: Callable[["Learner"], Callable[[Batch], Tensor]] | None = None,
    ):
        self.online, self.target = online, target_follower.target_of(online)
        self.value, self.backup, self.draws, self.optimizer = value, backup, draws, optimizer
        self.max_grad_norm, self.target_follower = max_grad_norm, target_follower
        self.updates = 0
        self.loss_sum = torch.zeros((), device=online.weights.device)  # since the last report
        self.taken = torch.zeros(1, device=online.weights.device)  # [B] at the last update
        self._reported = 0
        # Autograd's tape is what a compiler cannot see through: it gets the two sides of it.
        self._loss = capture(self._loss)
        self._descend = capture(self._descend)
        self._step = self._step_by_autograd if make_step is None else make_step(self)
        online.check_views()

    def prepare(self, batch: Batch) -> None:
        """Run one update and take it back: compiles, allocates and warms up before the clock."""
        changed = (
            self.online.weights, self.online.gradient, self.online.buffers,
            self.loss_sum, *self.optimizer.tensors().values(),
        )  # fmt: skip
        kept = [(tensor, tensor.clone()) for tensor in changed]
        self._step(batch)
        for tensor, before in kept:
            tensor.copy_(before)
        self.online.check_views()

    def update(self, batch: Batch) -> Tensor:
        """Take one gradient step on a device batch; returns the priorities [B] of its samples.

        The next update may overwrite them.
        """
        self.draws.refresh()
        priority = self._step(batch)
        self.updates += 1
        self.target_follower.follow(self.updates, self.online, self.target)
        return priority

    def loss_total(self) -> float:
        """Sum of losses since the last report: not finite if one was not. Waits for the device."""
        return self.loss_sum.item()

    def largest_weight(self) -> float:
        """Of all weights, by magnitude: not finite if one is not. Waits for the device."""
        return self.online.weights.abs().max().item()

    def report(self) -> Report:
        """Means since the last report; this waits for the device, so it is called rarely."""
        count = self.updates - self._reported
        loss, q_value = self.loss_sum.item(), self.taken.mean().item()
        self.loss_sum.zero_()
        self._reported = self.updates
        return Report(loss / max(count, 1), q_value, count)

    @property
    def nbytes(self) -> int:
        """Of weights, target and optimizer."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def state(self) -> State:
        """All that the next update and report depend on; this waits for the device."""
        return {
            "updates": self.updates,
            "reported": self._reported,
            "draws": self.draws.state(),
            **{name: to_host(tensor) for name, tensor in self._tensors().items()},
        }

    def load_state(self, state: State) -> None:
        """Go on from a state. Raises StateError."""
        self.updates, self._reported = take_count(state, "updates"), take_count(state, "reported")
        self.draws.load_state(take_state(state, "draws"))
        taken = take(state, "taken")
        self.taken = torch.zeros(getattr(taken, "shape", ()), device=self.taken.device)
        for name, tensor in self._tensors().items():
            from_host(state, name, tensor)
        self.online.check_views()

    def _tensors(self) -> dict[str, Tensor]:
        target = {"target_weights": self.target.weights, "target_buffers": self.target.buffers}
        if self.target.weights is self.online.weights:
            target = {}  # no copy of its own
        return {
            "weights": self.online.weights, "buffers": self.online.buffers, **target,
            "loss_total": self.loss_sum, "taken": self.taken,
            **{f"optimizer_{name}": each for name, each in self.optimizer.tensors().items()},
        }  # fmt: skip

    def _step_by_autograd(self, batch: Batch) -> Tensor:
        mean_loss, priority = self._loss(batch)
        self.online.gradient.zero_()
        mean_loss.backward()
        self._descend()
        return priority

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean weighted loss, with its graph, and priorities [B]."""
        draw = self.draws.passes.online_obs
        output = self.online.module(batch.obs, draw)
        with torch.no_grad():
            target = self._target(batch)
        loss, priority, taken = self.value.loss(output, batch.action, target, draw)
        mean_loss = torch.dot(loss, batch.weight) * (1.0 / len(loss))
        self.loss_sum += mean_loss.detach()
        self.taken = taken.detach()
        return mean_loss, priority.detach()

    def _descend(self) -> None:
        if self.max_grad_norm is not None:
            clip_by_norm(self.online.gradient, self.max_grad_norm)
        self.optimizer.step()

    def _target(self, batch: Batch) -> Tensor:
        value, online, target = self.value, self.online.module, self.target.module
        draws = self.draws.passes
        next_output = target(batch.next_obs, draws.target_next)
        bootstrap = self.backup(
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
