"""Learner: one gradient step on one batch, and the target network that follows it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdqn.learning.adam import Adam
from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.batch_staging import from_host, to_host
from fastdqn.learning.bootstrap_targets import Backup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import Capture, eager, keeping
from fastdqn.learning.random_inputs import Draws
from fastdqn.learning.target_network import TargetFollower
from fastdqn.learning.value import Value
from fastdqn.replay.batch import Batch
from fastdqn.state_dict import State, take, take_count, take_state


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
    draws       the random inputs of each update, fresh for every one, of as many as come together
    optimizer   over online's flat tensors; max_grad_norm  global-norm clip, None: no clip
    target_follower  makes the target, equal at first; hard copy or Polyak, by the count of updates
    capture     runs the pieces of an update, or updates that come together, see capture.py
    make_step   gives what stands in for autograd: it takes the step on a batch, leaves loss_sum
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
        self._step: Any
        if make_step is None:
            self._step = AutogradSteps(self, capture)
            whole = capture.whole(self._step, self._unchanged, "the update")
        else:
            self._step = make_step(self)
            whole = eager.whole(self._by_another, self._unchanged, "the update")
        self._run, self._prepare = whole
        online.check_views()

    def prepare(self, *batches: Batch) -> None:
        """Run an update of each batch and take all of them back: compiles, records, allocates and
        warms up before the clock."""
        with self._unchanged():
            _, self.taken = self._prepare(batches)
        self.online.check_views()

    def update(self, *batches: Batch) -> Tensor:
        """Take one gradient step on each device batch; returns the priorities of their samples,
        batch by batch, which the next update may overwrite.

        Of several at most together() belong to one call.
        """
        self.draws.refresh(len(batches))
        priority, self.taken = self._run(batches)
        self.updates += len(batches)
        self.target_follower.follow(self.updates, self.online, self.target)
        return priority

    def together(self, most: int) -> int:
        """Updates of the next call: the largest power of two, at most `most`, that the target
        is not copied within. So few different calls are to be captured."""
        if most == 1:
            return 1
        count = self.target_follower.together(self.updates, most)
        return 1 << (count.bit_length() - 1)

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
        shape = getattr(take(state, "taken"), "shape", ())
        if tuple(self.taken.shape) != shape:
            self.taken = self.taken.new_zeros(shape)
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

    def _unchanged(self) -> AbstractContextManager[None]:
        """Within, updates may be made on trial: afterwards nothing has learned from them."""
        return keeping(self._changed)

    def _changed(self) -> list[Tensor]:
        moved = [self.target.weights, self.target.buffers] if self.target_follower.within else []
        return [
            self.online.weights, self.online.gradient, self.online.buffers, *moved,
            self.loss_sum, *self.optimizer.tensors().values(),
        ]  # fmt: skip

    def _by_another(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """As AutogradSteps, by what stands in for it: a step overwrites the priorities of the one
        before."""
        if len(batches) == 1:
            priority = self._step(batches[0])
            self.target_follower.step(self.online, self.target)
            return priority, self.taken
        return torch.cat([self._by_another([each])[0].clone() for each in batches]), self.taken
