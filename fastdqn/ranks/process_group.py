"""ProcessGroup: the ranks of a run as torchrun starts them, by torch.distributed."""

import contextlib
import functools
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fastdqn.config.schema import ConfigError
from fastdqn.ranks.one_rank import ONE_RANK, Exchanged, Ranks, RanksError
from fastdqn.ranks.torchrun import local_rank, world_size

T = TypeVar("T")
# Timeout of the start: until all processes have imported their modules. Ours, untuned.
_START_SECONDS = 300
# Timeout of an exchange. A rank that ends closes its connections, which ends the others at once,
# so this only has to exceed the longest evaluation of the first rank.
_PATIENCE = timedelta(days=30)
# Numbers of the runs of this process.
_RUNS = itertools.count()
# Places of an exchange: transitions, whether to stop, to end by a callback and to save, whether the
# writer is busy, seconds by the clock of the first rank, and the number of ended episodes.
_STEPS, _STOP, _END, _SAVE, _BUSY, _TIME, _ENDED, _HEAD = range(8)
# Numbers of an ended episode before those of its info: environment, return, length.
_OF_EPISODE = 3


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Yields the ranks of this process: a ProcessGroup under torchrun, else ONE_RANK.

    Raises:
        ConfigError: The processes cannot connect.
    """
    if world_size() == 1:
        yield ONE_RANK
        return
    index = _join()
    try:
        group = ProcessGroup(index, local_rank(), dist.get_world_size())
        group.mean(0.0)  # all are connected now, so none ends while another still connects
        yield group
    except BaseException:
        _abort()
        raise
    if dist.is_initialized():
        dist.destroy_process_group()


def _join() -> int:
    """Connects the processes. Returns the number of this one. Raises ConfigError."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    patience = timedelta(seconds=_START_SECONDS)
    try:
        store, index, count = _rendezvous()
        # Runs of one process, one after another, must not find the addresses of earlier ones.
        store = PrefixStore(f"fastdqn run {next(_RUNS)}", store)
        store.set(str(index), "here")
        store.wait([str(other) for other in range(count)], patience)
        dist.init_process_group(
            backend, store=store, rank=index, world_size=count, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            [f"the {world_size()} processes of the run cannot connect ({_brief(error)}): start all "
             "of them with torchrun"]
        ) from None  # fmt: skip
    return index


@functools.cache
def _rendezvous() -> tuple[Store, int, int]:
    """Returns the store by which the processes find each other, kept for later runs."""
    return next(rendezvous("env://", timeout=timedelta(seconds=_START_SECONDS)))


def _abort() -> None:
    """Closes the connections, also of an exchange on a device that will never end."""
    if not dist.is_initialized():
        return
    if torch.cuda.is_available():
        with contextlib.suppress(Exception):
            dist.distributed_c10d._abort_process_group()
            return
    dist.destroy_process_group()


class ProcessGroup:
    """Ranks that exchange by gloo on the host, and by NCCL between CUDA devices.

    Args:
        index, local_index, count: As in Ranks.
    """

    def __init__(self, index: int, local_index: int, count: int):
        self.index, self.local_index, self.count = index, local_index, count
        self._started = time.monotonic()
        self._stop = self._checkpoint = lambda: False
        self._ready: Callable[[], bool] = lambda: True
        self._reason = ""  # why a callback of this rank ends the run
        self._agreed = np.zeros(_HEAD)
        self._mine = torch.zeros(0, dtype=torch.float64)
        self._all = torch.zeros(count, 0, dtype=torch.float64)

    def prepare(self, num_lanes: int, most_ended: int, info_keys: Sequence[str]) -> None:
        self._first_lane, self._keys = self.index * num_lanes, info_keys
        self._width = _OF_EPISODE + len(info_keys)
        self._mine = torch.zeros(_HEAD + most_ended * self._width, dtype=torch.float64)
        self._all = torch.zeros(self.count, len(self._mine), dtype=torch.float64)

    def exchange(self, step: Any, enter: Callable[[str], None]) -> Exchanged:
        enter("ranks")
        count, mine = len(step.ended_lanes), self._mine.numpy()
        mine[:_HEAD] = (
            len(step.lanes), self._stop(), bool(self._reason), self._checkpoint(),
            not self._ready(), time.monotonic() - self._started, count,
        )  # fmt: skip
        if count:
            table = mine[_HEAD:].reshape(-1, self._width)[:count]
            table[:, 0] = step.ended_lanes + self._first_lane
            table[:, 1], table[:, 2] = step.returns, step.lengths
            for i, key in enumerate(self._keys):
                table[:, _OF_EPISODE + i] = np.nan if step.info is None else step.info[key]
        self._gather(self._mine, self._all)
        everyone = self._all.numpy()
        self._agreed = everyone[:, :_HEAD].sum(0)
        self._agreed[_TIME] = everyone[0, _TIME]
        reason = "stopped by on_step" if self._agreed[_END] else ""
        return Exchanged(int(self._agreed[_STEPS]), self._with_episodes(step, everyone), reason)

    def _with_episodes(self, step: Any, everyone: np.ndarray) -> Any:
        """Returns a step with the episodes of all ranks, by rank."""
        if not self._agreed[_ENDED]:
            return step
        tables = everyone[:, _HEAD:].reshape(self.count, -1, self._width)
        ended = [t[: int(n)] for t, n in zip(tables, everyone[:, _ENDED], strict=True)]
        lanes, returns, lengths, *info = np.concatenate(ended).T
        return step._replace(
            ended_lanes=lanes.astype(np.int64), returns=returns, lengths=lengths.astype(np.int64),
            info=dict(zip(self._keys, info, strict=True)) if self._keys else None,
        )  # fmt: skip

    def end(self, reason: str) -> str:
        self._reason = reason
        return ""

    def listen(
        self, stop: Callable[[], bool], checkpoint: Callable[[], bool]
    ) -> tuple[Callable[[], bool], Callable[[], bool]]:
        self._stop, self._checkpoint = stop, checkpoint
        return lambda: bool(self._agreed[_STOP]), lambda: bool(self._agreed[_SAVE])

    def writer(
        self, ready: Callable[[], bool], clock: Callable[[], float]
    ) -> tuple[Callable[[], bool], Callable[[], float]]:
        self._ready = ready
        return lambda: not self._agreed[_BUSY], lambda: float(self._agreed[_TIME])

    def mean(self, *numbers: float) -> Sequence[float]:
        return self._gathered(torch.tensor(numbers, dtype=torch.float64)).mean(0).tolist()

    def largest(self, number: float) -> float:
        return self._gathered(torch.tensor([number], dtype=torch.float64)).max().item()

    def average(self, tensor: Tensor) -> None:
        _answered(dist.all_reduce, tensor)
        tensor.div_(self.count)

    def require_equal(self, checksum: Callable[[], int], what: str) -> None:
        found = self._gathered(torch.tensor([checksum()])).flatten().tolist()
        if min(found) != max(found):
            other = next(i for i, each in enumerate(found) if each != found[0])
            raise RanksError(
                f"{what} of rank {other} differ from those of rank 0, checksums {found[other]} and "
                f"{found[0]}: resume from the last checkpoint, on equal machines"
            )

    def broadcast(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            _answered(dist.broadcast, tensor, 0)

    def first(self, function: Callable[[], T]) -> T:
        found = [function() if self.index == 0 else None]
        _answered(dist.broadcast_object_list, found, 0)
        return found[0]  # pyright: ignore[reportReturnType]

    def together(self, function: Callable[[], T]) -> T:
        lines, result = [], None
        try:
            result = function()
        except ConfigError as error:
            lines = error.lines
        if failed := list(filter(None, self._objects(lines))):
            raise ConfigError(failed[0] if self.index == 0 else [])
        return result  # pyright: ignore[reportReturnType]

    def common(self, names: Sequence[str]) -> str | None:
        shared = set.intersection(*map(set, self._objects(list(names))))
        return max(shared, key=list(names).index, default=None)

    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]:
        if self.index == 0:
            yield
            self.mean(0.0)
        else:
            self.mean(0.0)
            yield

    def folder(self, run: Path) -> Path:
        run = self.first(lambda: run)
        return run if self.index == 0 else run / "ranks" / str(self.index)

    def finish(self) -> None:
        self.mean(0.0)
        dist.destroy_process_group()

    def _objects(self, mine: Any) -> list[Any]:
        """Returns an object of each rank."""
        found: list[Any] = [None] * self.count
        _answered(dist.all_gather_object, found, mine)
        return found

    def _gathered(self, mine: Tensor) -> Tensor:
        """Returns tensors [*] on the host of all ranks, [G, *]."""
        everyone = mine.new_zeros(self.count, *mine.shape)
        self._gather(mine, everyone)
        return everyone

    def _gather(self, mine: Tensor, everyone: Tensor) -> None:
        _answered(dist.all_gather, list(everyone), mine)


def _answered(call: Callable[..., Any], *args: Any) -> None:
    """Makes a call of torch.distributed. Raises RanksError if another rank does not answer."""
    try:
        call(*args)
    except RuntimeError as error:
        raise RanksError(
            f"another rank has ended or cannot be reached ({_brief(error)}), so this one ends. The "
            "message of the other rank says why"
        ) from None


def _brief(error: Exception) -> str:
    """Returns the first sentence of an error of torch, without its place in the source."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[\S+\] ", "", line).partition(". ")[0]
