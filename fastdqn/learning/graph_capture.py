"""Capture: runs device code as written, compiled, or recorded as a graph and replayed."""

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastdqn.learning.cuda_streams import Branches, one_by_one

# Groups of tensors, some of them None: a Batch, or the inputs of a policy.
Inputs = Sequence[Sequence[Tensor | None]]
Call = Callable[[Any], Any]
Keep = Callable[[], AbstractContextManager[None]]


class Whole(NamedTuple):
    """The two ways to run a call.

    Attributes:
        run: Runs the call on inputs and returns its result on the device.
        prepare: The same, for inputs that will be used again; allocates and records first.
    """

    run: Call
    prepare: Call


class Capture(Protocol):
    """A way to run device code.

    piece() takes a function before or after backward(), which a compiler cannot trace.

    whole() takes a call over inputs that stay in place. Its memory must not move, the host must
    read nothing, and no Python number may change. keep() restores all tensors and generators that
    it changes. It may draw from the given generators only.

    Attributes:
        branches: Runs forward passes that do not depend on each other at the same time.
    """

    branches: Branches

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]: ...
    def whole(
        self, call: Call, keep: Keep, name: str, generators: Sequence[torch.Generator] = ()
    ) -> Whole: ...


class _Eager:
    """Runs every call as it is written."""

    branches: Branches = one_by_one

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def whole(
        self, call: Call, keep: Keep, name: str, generators: Sequence[torch.Generator] = ()
    ) -> Whole:
        return Whole(call, call)


class _Compiled(_Eager):
    """Compiles pieces at their first call for its shapes; needs a C++ compiler on the CPU."""

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(_with_own_code(function), dynamic=False)


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a copy of a Python function or method, with a code object of its own.

    Dynamo counts compilations by code object, and runs a function eagerly after eight, in silence.
    Learners of one process share the code of their methods.
    """
    plain: Any = getattr(function, "__func__", function)
    if not isinstance(plain, types.FunctionType):
        return function
    own = types.FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__,
        plain.__closure__,
    )  # fmt: skip
    own.__kwdefaults__ = plain.__kwdefaults__
    is_method = isinstance(function, types.MethodType)
    return types.MethodType(own, function.__self__) if is_method else own


eager: Capture = _Eager()
compiled: Capture = _Compiled()


class Record(Protocol):
    """Records the device work of a call.

    The call runs several times before it is recorded. Returns a function that replays the work,
    and the result of the call, which each replay overwrites.
    """

    def __call__(
        self, call: Callable[[], Any], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Any]: ...


class Graphs(_Eager):
    """Records whole calls and replays them with a single launch.

    Args:
        record: See CudaRecorder.
        report: Receives a message if a call has to be recorded again.
        branches: Branches of the graphs.
        pieces: Compiles the pieces of a call before it is recorded; None records them as written.
    """

    def __init__(
        self,
        record: Record,
        report: Callable[[str], None],
        branches: Branches = one_by_one,
        pieces: Capture | None = None,
    ):
        self._record, self._report, self.branches = record, report, branches
        self._pieces = pieces

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if self._pieces is None else self._pieces.piece(function)

    def whole(
        self, call: Call, keep: Keep, name: str, generators: Sequence[torch.Generator] = ()
    ) -> Whole:
        def record(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
            return self._record(call, generators)

        graphed = Graphed(call, keep, name, record, self._report)
        return Whole(graphed, graphed.prepare)


class _Recorded(NamedTuple):
    inputs: Inputs  # kept, so that their memory is not reused
    replay: Callable[[], None]
    result: Any


class Graphed:
    """A call recorded for each of the inputs that it was prepared for.

    Other inputs of the same shapes are copied to the first known ones. For new shapes the call is
    recorded again, with a message. If that fails, calls with these shapes run as written. The next
    call with the same inputs overwrites the result.
    """

    def __init__(
        self,
        call: Call,
        keep: Keep,
        name: str,
        record: Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]],
        report: Callable[[str], None],
    ):
        self._call, self._keep, self._name = call, keep, name
        self._record, self._report = record, report
        self._known: dict[tuple[int, ...], _Recorded] = {}
        self._by_shape: dict[tuple, _Recorded | None] = {}  # None: it cannot be recorded

    def __call__(self, inputs: Inputs) -> Any:
        known = self._known.get(tuple(map(id, inputs))) or self._alike(inputs)
        if known is None:
            return self._call(inputs)
        known.replay()
        return known.result

    def prepare(self, inputs: Inputs) -> Any:
        """Records the call for these inputs without changing any tensor, then runs it."""
        with self._keep():
            replay, result = self._record(lambda: self._call(inputs))
        known = _Recorded(inputs, replay, result)
        self._known[tuple(map(id, inputs))] = known
        self._by_shape.setdefault(_shapes(inputs), known)
        replay()
        return result

    def _alike(self, inputs: Inputs) -> _Recorded | None:
        shapes = _shapes(inputs)
        if shapes not in self._by_shape:
            self._record_shapes(shapes, inputs)
        known = self._by_shape[shapes]
        if known is not None:
            for to, source in zip(_tensors(known.inputs), _tensors(inputs), strict=True):
                to.copy_(source)
        return known

    def _record_shapes(self, shapes: tuple, inputs: Inputs) -> None:
        """Records the call for copies of the inputs, if that is possible."""
        if not self._by_shape:  # the first recording fails where it is asked for
            with self._keep():
                self.prepare(_copied(inputs))
            return
        shape = _described(shapes)
        self._report(
            f"{self._name} is captured again, for {shape}, a shape that was not captured yet"
        )
        try:
            with self._keep():
                self.prepare(_copied(inputs))
        except (UncapturableError, torch.OutOfMemoryError) as error:
            self._by_shape[shapes] = None
            self._report(f"{self._name} runs eagerly for {shape}: {_line(error)}")


def _tensors(inputs: Inputs) -> Iterator[Tensor]:
    return (tensor for each in inputs for tensor in each if tensor is not None)


def _shapes(inputs: Inputs) -> tuple:
    """Returns what a recording depends on: shapes, dtypes, and which tensors are None."""
    return tuple(
        tuple(None if t is None else (tuple(t.shape), t.dtype) for t in each) for each in inputs
    )


def _described(shapes: tuple) -> str:
    first = next(shape for each in shapes for shape in each if shape is not None)
    return f"{len(shapes)} x {list(first[0])}"


def _copied(inputs: Inputs) -> Inputs:
    """Returns a copy of the inputs."""
    return tuple(
        type(each)(*(None if t is None else t.clone() for t in each))  # pyright: ignore[reportCallIssue]
        for each in inputs
    )


class UncapturableError(ValueError):
    """A call cannot be recorded; the message names the operation."""


def _line(error: BaseException) -> str:
    """Returns the first line of a message."""
    return str(error).strip().split("\n")[0]


class CudaRecorder:
    """Records a call as a CUDA graph, whose replay launches all work at once, asynchronously.

    The recordings of one recorder share scratch memory, since they run one after another. The
    result of a call is kept with its recording, so that no other recording overwrites it.
    """

    _WARM_UPS = 3  # cuDNN and cuBLAS select kernels and allocate memory in the first calls

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, call: Callable[[], Any], generators: Sequence[torch.Generator] = ()
    ) -> tuple[Callable[[], None], Any]:
        here = torch.cuda.current_stream(self._device)
        # The device and stream are restored after a failure, too.
        with _fastest_convolutions(), torch.cuda.device(self._device), torch.cuda.stream(here):
            # The backward pass runs in the stream of the forward pass: the capture stream.
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                for _ in range(self._WARM_UPS):
                    call()
            here.wait_stream(self._stream)
            graph, result = self._captured(call, generators)
        return graph.replay, result

    def _captured(
        self, call: Callable[[], Any], generators: Sequence[torch.Generator]
    ) -> tuple[Any, Any]:
        """Returns a graph of a call, and its result.

        Raises:
            UncapturableError: An operation cannot be captured.
            torch.OutOfMemoryError: The device has too little memory for it.
        """
        graph, failure, result = torch.cuda.CUDAGraph(), None, None
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            # thread_local: calls of other threads must not end the capture.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                try:
                    result = call()
                except Exception as error:
                    failure = error  # the end of a failed capture raises an error of its own
                    raise
        except Exception as error:
            self._start_anew()
            failure = failure or error
            if not isinstance(failure, RuntimeError) or isinstance(failure, torch.OutOfMemoryError):
                raise failure from None
            raise UncapturableError(
                f"a call cannot be captured as a CUDA graph: {_line(failure)}"
            ) from failure
        return graph, result

    def _start_anew(self) -> None:
        """After a failed capture, whose memory pool and stream may still be recording."""
        with contextlib.suppress(Exception):  # it may have ended
            index = self._stream.device.index
            torch._C._cuda_endAllocateToPool(index, self._pool)  # pyright: ignore[reportAttributeAccessIssue]
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()


@contextlib.contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Within, cuDNN measures its algorithms for new shapes, and uses the fastest from then on."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def keeping(
    tensors: Callable[[], Sequence[Tensor]], generators: Sequence[torch.Generator] = ()
) -> Iterator[None]:
    """Restores the values of tensors and the states of generators at the end of the context."""
    kept = [(tensor, tensor.clone()) for tensor in tensors()]
    states = [(generator, generator.get_state()) for generator in generators]
    try:
        yield
    finally:
        for tensor, before in kept:
            tensor.copy_(before)
        for generator, state in states:
            generator.set_state(state)
