"""DeviceChoice: best actions by a captured or compiled pass, its memory in place."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.learning.cuda_streams import Queues, queues_of
from fastdqn.learning.graph_capture import Capture
from fastdqn.learning.random_inputs import Draw
from fastdqn.learning.value import Value

# Numbers of lanes, with and without masks and noise, that a run has: a few. Each is captured.
_MOST_KINDS = 8


class Seen(NamedTuple):
    """Inputs of a captured action selection.

    obs [N, *] as stored; mask [N, A] bool or None; noise [N, D] or None
    """

    obs: Tensor
    mask: Tensor | None
    noise: Tensor | None


class DeviceChoice:
    """Chooses by the weights as they are: they are read where the learner writes them.

    network  in eval mode, over the learner's memory; capture  runs the pass
    """

    def __init__(
        self,
        network: nn.Module,
        value: Value,
        device: torch.device,
        capture: Capture,
        queues: Queues | None = None,
    ):
        self._network, self._value = network, value
        self._queues = queues or queues_of(device)
        self._best = capture.piece(self._best_of)
        self._run, self._prepare = capture.whole(self._pass, nullcontext, "acting")
        self._kinds: dict[tuple, _Lanes] = {}

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None, draw: Draw) -> np.ndarray | None:
        """Best actions [N] int64 for obs [N, *]; mask [N, A], nonzero where allowed. None where it
        was asked for too many numbers of lanes."""
        kind = (len(obs), mask is None, draw.noise is None)
        lanes = self._kinds.get(kind)
        if lanes is None:
            if len(self._kinds) == _MOST_KINDS:
                return None
            same = not self._kinds or any(len(obs) == lanes for lanes, _, _ in self._kinds)
            lanes = self._kinds[kind] = _Lanes(self._queues, obs, mask, draw.noise)
            lanes.fill(obs, mask, draw.noise)
            if same:  # others, as evaluations have, are captured when they come, and that is said
                self._prepare((lanes.seen,))
        lanes.fill(obs, mask, draw.noise)
        return lanes.bring(self._run((lanes.seen,)))

    def _pass(self, inputs: Sequence[Seen]) -> Tensor:
        return self._best(*inputs[0])

    def _best_of(self, obs: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            values = self._value.expected(self._network(obs, Draw(noise)))
            if mask is not None:
                values = values.masked_fill(~mask, -torch.inf)
            return values.argmax(1)


class _Lanes:
    """What a pass for some lanes reads and writes, on the device and on the host, in its place."""

    def __init__(
        self, queues: Queues, obs: np.ndarray, mask: np.ndarray | None, noise: Tensor | None
    ):
        self._queues, self._mark = queues, queues.mark()
        arrays = [np.zeros(np.shape(obs), obs.dtype)]
        arrays += [] if mask is None else [np.zeros(np.shape(mask), np.bool_)]
        self._pairs = [_pair(queues, array) for array in arrays]
        there = [on_device for _, on_device in self._pairs]
        self.seen = Seen(
            there[0], None if mask is None else there[1], None if noise is None else noise.clone()
        )
        self._chosen = queues.host_bytes(8 * len(obs)).view(torch.int64)

    def fill(self, obs: np.ndarray, mask: np.ndarray | None, noise: Tensor | None) -> None:
        given = [obs] if mask is None else [obs, mask]
        for (host, on_device), array in zip(self._pairs, given, strict=True):
            np.copyto(host.numpy(), array, casting="unsafe")
            on_device.copy_(host, non_blocking=True)  # bring() waits for what comes behind it
        if self.seen.noise is not None and noise is not None:
            self.seen.noise.copy_(noise)

    def bring(self, chosen: Tensor) -> np.ndarray:
        """The actions on the host; this waits for the device."""
        self._queues.download(self._chosen, chosen, self._mark)
        self._queues.wait(self._mark)
        return self._chosen.numpy().copy()


def _pair(queues: Queues, array: np.ndarray) -> tuple[Tensor, Tensor]:
    """Memory of an array's shape and type on the host, and on the device."""
    like = torch.from_numpy(array)
    host, there = queues.host_bytes(like.nbytes), queues.device_bytes(like.nbytes)
    return host.view(like.dtype).view(like.shape), there.view(like.dtype).view(like.shape)
