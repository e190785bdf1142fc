"""Learner: takes gradient steps on batches and updates the target network."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.batch_staging import from_host, to_host
from fastdqn.learning.bootstrap_targets import Backup
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import Capture, eager, keeping
from fastdqn.learning.optimizer import Optimizer
from fastdqn.learning.precision import update_arithmetic
from fastdqn.learning.random_inputs import Draws, Passes
from fastdqn.learning.target_network import TargetUpdate
from fastdqn.learning.value import Value
from fastdqn.part_error import PartError
from fastdqn.replay.batch import Batch
from fastdqn.state_dict import State, take, take_count, take_state


class Report(NamedTuple):
    """Statistics since the last report.

    Attributes:
        loss: Mean over the updates.
        q_value: Mean value of the actions taken in the last batch.
        updates: Number of updates.
        learning_rate: As a schedule set it last. None: no schedule has set it.
    """

    loss: float
    q_value: float
    updates: int
    learning_rate: float | None = None


class Learner:
    """Owns the weights and everything that changes them.

    update() is asynchronous: the host never waits for the device.

    Args:
        online: The network, flattened, in train mode.
        value: The meaning of its output.
        backup: Selects the actions to bootstrap from.
        draws: Random inputs, new ones for every update.
        optimizer: Optimizer of online's flat tensors.
        target_update: Creates and updates the target network.
        max_grad_norm: Limit of the global gradient norm; None does not clip.
        capture: Compiles or records updates, see graph_capture.py.
        make_step: Returns a replacement of autograd, such as FusedStep. It takes the step on a
            batch with random inputs, sets loss_sum and taken, and returns the priorities.
        observed: Replaces the slots of a batch by observations, see DeviceStore; None if batches
            have observations.
        average: Replaces the gradient by its mean over the ranks of a run; None for one rank.
    """

    def __init__(
        self,
        online: FlatParameters,
        value: Value,
        backup: Backup,
        draws: Draws,
        optimizer: Optimizer,
        target_update: TargetUpdate,
        max_grad_norm: float | None,
        capture: Capture = eager,
        make_step: Callable[["Learner"], Callable[[Batch, Passes], Tensor]] | None = None,
        observed: Callable[[Batch], Batch] | None = None,
        average: Callable[[Tensor], None] | None = None,
    ):
        self.online, self.target = online, target_update.target_of(online)
        self.value, self.backup, self.draws, self.optimizer = value, backup, draws, optimizer
        self.max_grad_norm, self.target_update = max_grad_norm, target_update
        self.observed: Callable[[Batch], Batch] = observed or (lambda batch: batch)
        self.average = average
        self.updates = 0
        self.loss_sum = torch.zeros((), device=online.weights.device)  # since the last report
        self.taken = torch.zeros(1, device=online.weights.device)  # [B], values in the last update
        self._reported = 0
        self._learning_rate: float | None = None
        self._step: Any
        if make_step is None:
            self._step = AutogradSteps(self, capture)
            whole = capture.whole(self._steps, self._unchanged, "the update", self.draws.generators)
        else:
            self._step = make_step(self)
            whole = eager.whole(self._custom_steps, self._unchanged, "the update")
        self._run, self._prepare = whole
        self._arithmetic = update_arithmetic(online.weights.device, uses_torch=make_step is None)
        online.check_views()

    def prepare(self, *batches: Batch) -> None:
        """Warm-up: runs an update on each batch and restores all tensors.

        It compiles, records and allocates, so that this is not measured later.
        """
        before = _places(self.optimizer.tensors())
        with self._unchanged():
            priority, self.taken = self._prepare(batches)
        after = _places(self.optimizer.tensors())
        self.online.check_views()
        for name in before | after:
            if before.get(name) != after.get(name):
                raise PartError(
                    f"{type(self.optimizer).__name__}.tensors() returns another {name!r} after a "
                    "step: all tensors must exist from the start, and step() must change them in "
                    "place"
                )
        expected = (sum(len(batch.action) for batch in batches),)
        if priority.shape != expected:
            raise PartError(
                f"the priority of {type(self.value).__name__}.loss() has shape "
                f"{tuple(priority.shape)}, must have one entry for each of {expected[0]} samples"
            )

    def update(self, *batches: Batch) -> Tensor:
        """Takes one gradient step on each device batch.

        At most together() batches belong in one call.

        Returns:
            Priorities of all samples, batch by batch; the next update may overwrite them.
        """
        return self._arithmetic(self._update, batches)

    def together(self, most: int) -> int:
        """Returns how many updates the next call may take: a power of two, at most `most`.

        No target update falls between them. Powers of two keep the number of graphs small.
        """
        if most == 1:
            return 1
        count = self.target_update.together(self.updates, most)
        return 1 << (count.bit_length() - 1)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of the next updates. Asynchronous, as update()."""
        self.optimizer.learning_rate.fill_(learning_rate)
        self._learning_rate = learning_rate

    def loss_total(self) -> float:
        """Returns the sum of losses since the last report; not finite if one was not. Syncs."""
        return self.loss_sum.item()

    def largest_weight(self) -> float:
        """Returns the largest weight by magnitude; not finite if one is not. Syncs."""
        return self.online.weights.abs().max().item()

    def checksum(self) -> int:
        """Returns the sum of the bits of all weights, as integers modulo 2^64. Syncs."""
        tensors = (self.online.weights, self.online.buffers, self.target.weights)
        sums = [each.view(torch.int32).sum(dtype=torch.int64) for each in tensors]
        return int(torch.stack(sums).sum().item())

    def report(self) -> Report:
        """Returns means since the last report; waits for the device, so it is called rarely."""
        count = self.updates - self._reported
        loss, q_value = self.loss_sum.item(), self.taken.mean().item()
        self.loss_sum.zero_()
        self._reported = self.updates
        return Report(loss / max(count, 1), q_value, count, self._learning_rate)

    @property
    def nbytes(self) -> int:
        """Size in bytes of weights, target and optimizer state."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def state(self) -> State:
        """Returns a state dict; waits for the device."""
        return {
            "updates": self.updates,
            "reported": self._reported,
            "draws": self.draws.state(),
            **{name: to_host(tensor) for name, tensor in self._tensors().items()},
        }

    def load_state(self, state: State) -> None:
        """Loads a state dict; raises StateError."""
        self.updates, self._reported = take_count(state, "updates"), take_count(state, "reported")
        self.draws.load_state(take_state(state, "draws"))
        shape = getattr(take(state, "taken"), "shape", ())
        if tuple(self.taken.shape) != shape:
            self.taken = self.taken.new_zeros(shape)
        for name, tensor in self._tensors().items():
            from_host(state, name, tensor)
        self.online.check_views()

    def adopt(self, weights: State, optimizer: bool) -> None:
        """Loads the weights of another run's learner; raises StateError.

        Args:
            weights: Arrays of its state dict.
            optimizer: Whether to load the state of its optimizer, too, without its learning rate.
        """
        tensors = self._tensors()
        of_target = tensors.keys() & {"target_weights", "target_buffers"}
        names = {"weights": "weights", "buffers": "buffers"}
        names |= {name: name.replace("target_", "") for name in of_target}  # without a target
        if optimizer:
            rest = {name for name in tensors if name.startswith("optimizer_")}
            names |= {name: name for name in rest - {"optimizer_learning_rate"}}
        for name, otherwise in names.items():
            from_host(weights, name if name in weights else otherwise, tensors[name])
        self.online.check_views()

    def _tensors(self) -> dict[str, Tensor]:
        target = {"target_weights": self.target.weights, "target_buffers": self.target.buffers}
        if self.target.weights is self.online.weights:
            target = {}  # the target shares the online weights
        return {
            "weights": self.online.weights, "buffers": self.online.buffers, **target,
            "loss_total": self.loss_sum, "taken": self.taken,
            **{f"optimizer_{name}": each for name, each in self.optimizer.tensors().items()},
        }  # fmt: skip

    def _update(self, batches: tuple[Batch, ...]) -> Tensor:
        priority, self.taken = self._run(batches)
        self.updates += len(batches)
        self.target_update.follow(self.updates, self.online, self.target)
        return priority

    def _unchanged(self) -> AbstractContextManager[None]:
        """Restores everything that updates within the context change."""
        return keeping(self._changed, self.draws.generators)

    def _changed(self) -> list[Tensor]:
        moved = [self.target.weights, self.target.buffers] if self.target_update.within else []
        return [
            self.online.weights, self.online.gradient, self.online.buffers, *moved,
            self.loss_sum, *self.optimizer.tensors().values(),
        ]  # fmt: skip

    def _steps(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Draws random inputs, and takes the steps."""
        self.draws.refresh(len(batches))
        return self._step(batches)

    def _custom_steps(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """As AutogradSteps, by a custom step; each overwrites the priorities of the last one."""
        self.draws.refresh(len(batches))
        priorities = []
        for batch, passes in zip(batches, self.draws.sets_of(len(batches)), strict=True):
            priorities.append(self._step(batch, passes))
            self.target_update.step(self.online, self.target)
            if len(batches) > 1:
                priorities[-1] = priorities[-1].clone()
        return priorities[0] if len(batches) == 1 else torch.cat(priorities), self.taken


def _places(tensors: dict[str, Tensor]) -> dict[str, tuple[int, Any]]:
    """Returns where tensors are in memory, and their shapes."""
    return {name: (tensor.data_ptr(), tensor.shape) for name, tensor in tensors.items()}
