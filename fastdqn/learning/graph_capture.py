"""How calls of the device are run: as they are written, compiled, or recorded once and replayed."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

# Tensors that belong together, some of them missing: a Batch, what acting takes.
Inputs = Sequence[Sequence[Tensor | None]]
Call = Callable[[Any], Any]
Keep = Callable[[], AbstractContextManager[None]]


class Whole(NamedTuple):
    """A call that is captured as a whole.

    run      of inputs: what the call returns, on the device
    prepare  the same, for inputs that will come again: what can be made beforehand is made
    """

    run: Call
    prepare: Call


class Capture(Protocol):
    """How a call is run.

    piece  of a function between the two sides of autograd's tape, which no compiler sees through
    whole  of a call over inputs that stay where they are. Nothing that it reads or writes may move,
           nothing be read by the host, no number of Python's change; keep() brings back all that
           it changes
    """

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]: ...
    def whole(self, call: Call, keep: Keep, name: str) -> Whole: ...


class _Eager:
    """Every call as it is written."""

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def whole(self, call: Call, keep: Keep, name: str) -> Whole:
        return Whole(call, call)


class _Compiled(_Eager):
    """Pieces are compiled at their first call, for the shapes given then; on the CPU that needs a
    C++ compiler."""

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False)


eager: Capture = _Eager()
compiled: Capture = _Compiled()


class Record(Protocol):
    """Records what a call launches: (replays it, what it returned, which a replay overwrites).

    The call is made some times before it is recorded.
    """

    def __call__(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]: ...


class Graphs(_Eager):
    """Whole calls are recorded, and replayed: one launch in place of all of theirs.

    record  see CudaRecorder
    say     takes a line where a call has to be recorded again
    """

    def __init__(self, record: Record, say: Callable[[str], None]):
        self._record, self._say = record, say

    def whole(self, call: Call, keep: Keep, name: str) -> Whole:
        graphed = Graphed(call, keep, name, self._record, self._say)
        return Whole(graphed, graphed.prepare)


class _Recorded(NamedTuple):
    inputs: Inputs  # held, so that their memory is nobody else's
    replay: Callable[[], None]
    result: Any


class Graphed:
    """A call that was recorded for each of the inputs it was prepared for.

    Others of the same shapes are copied into the first that it knows; for those of another shape it
    is recorded again, and that is said. Results are overwritten by the next call of those inputs.
    """

    def __init__(
        self, call: Call, keep: Keep, name: str, record: Record, say: Callable[[str], None]
    ):
        self._call, self._keep, self._name = call, keep, name
        self._record, self._say = record, say
        self._known: dict[tuple[int, ...], _Recorded] = {}
        self._by_shape: dict[tuple, _Recorded] = {}

    def __call__(self, inputs: Inputs) -> Any:
        known = self._known.get(tuple(map(id, inputs))) or self._alike(inputs)
        known.replay()
        return known.result

    def prepare(self, inputs: Inputs) -> Any:
        """Record the call for these inputs, with all that it changes kept as it was; then make
        it."""
        with self._keep():
            replay, result = self._record(lambda: self._call(inputs))
        known = _Recorded(inputs, replay, result)
        self._known[tuple(map(id, inputs))] = known
        self._by_shape.setdefault(_shapes(inputs), known)
        replay()
        return result

    def _alike(self, inputs: Inputs) -> _Recorded:
        shapes = _shapes(inputs)
        if shapes not in self._by_shape:
            if self._by_shape:
                self._say(f"{self._name} is captured again, for {_described(shapes)}")
            with self._keep():
                self.prepare(_copied(inputs))
        known = self._by_shape[shapes]
        for to, source in zip(_tensors(known.inputs), _tensors(inputs), strict=True):
            to.copy_(source)
        return known


def _tensors(inputs: Inputs) -> Iterator[Tensor]:
    return (tensor for each in inputs for tensor in each if tensor is not None)


def _shapes(inputs: Inputs) -> tuple:
    """What a recording depends on: shapes and types, and which tensors are missing."""
    return tuple(
        tuple(None if t is None else (tuple(t.shape), t.dtype) for t in each) for each in inputs
    )


def _described(shapes: tuple) -> str:
    first = next(shape for each in shapes for shape in each if shape is not None)
    return f"{len(shapes)} x {list(first[0])} in place of what it knew"


def _copied(inputs: Inputs) -> Inputs:
    """Inputs of the same kind in memory of their own."""
    return tuple(
        type(each)(*(None if t is None else t.clone() for t in each))  # pyright: ignore[reportCallIssue]
        for each in inputs
    )


class UncapturableError(ValueError):
    """A call cannot be recorded: one line says which of its operations."""


class CudaRecorder:
    """Records a call as a CUDA graph: a replay launches all of it at once, and waits for nothing.

    All recordings of one recorder share their scratch memory: they run one after another. What a
    call returns is held with its recording, so that no other writes there.
    """

    _WARM_UPS = 3  # cuDNN and cuBLAS choose their kernels, and allocate, at first calls

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        here = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device), torch.cuda.stream(here):  # whatever a failure leaves
            # Autograd's accumulation belongs to the stream that first used it: the capture's.
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                for _ in range(self._WARM_UPS):
                    call()
            here.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    result = call()
            except RuntimeError as error:
                reason = str(error).strip().split("\n")[0]
                raise UncapturableError(f"it cannot be captured as a graph: {reason}") from error
        return graph.replay, result


@contextlib.contextmanager
def keeping(tensors: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """Within, these tensors may be written to: afterwards they are what they were."""
    kept = [(tensor, tensor.clone()) for tensor in tensors()]
    try:
        yield
    finally:
        for tensor, before in kept:
            tensor.copy_(before)
