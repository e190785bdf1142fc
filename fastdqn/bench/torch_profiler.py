"""Records calls with the profiler of torch, and exports the trace."""

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fastdqn.bench.learner_speed import waiter
from fastdqn.learning.marks import Mark, mark_method

# A range in the trace. That of torch's own compiler takes 1 us, the public one 15 us, which is as
# long as a short phase.
_bindings: Any = torch._C
_range: Any = getattr(_bindings._profiler, "_RecordFunctionFast", record_function)
STEP = "ProfilerStep#"  # prefix of the range of a call, which tools for traces of torch know

Call = Callable[[], None]
# Lines that torch prints on standard error while profiling, without use for the user.
_CHATTER = re.compile(
    rb"USDT:.*profiler_st|\[W[^]]* CPUAllocator\.cpp:\d+\] Memory block of unkn|"
    rb"ERROR:.* output_json\.cpp|"  # reported by write_trace()
    rb"ERROR:.* DeviceProperties\.cpp"  # the CUDA build of torch without a GPU
)


class Recorded(NamedTuple):
    """Profile of calls.

    Attributes:
        profile: Recorded profile.
        peak_bytes: Peak of allocated GPU memory, inputs included. None on a CPU.
        mark_seconds: What a marked range adds to the time around it.
    """

    profile: profile
    peak_bytes: int | None
    mark_seconds: float = 0.0


def record(
    what: str, device: torch.device, run: Callable[[Call, Call], None], shapes: bool = False
) -> Recorded:
    """Profiles what run(begin, end) does between begin() and end(), in a range named what.

    The device is synchronized before the recording ends. shapes also records those of operators.
    """
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_gpu
    # torch 2.11 warns of what a second cycle would clear, unless events are accumulated.
    recorded = profile(
        activities=activities, profile_memory=True, record_shapes=shapes, acc_events=True
    )
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with ExitStack() as ended:

        def begin() -> None:
            ended.enter_context(_without_chatter())
            recorded.start()
            ended.callback(recorded.stop)  # an exception while it runs would crash torch
            ended.enter_context(_named(what, is_gpu))

        def end() -> None:
            waiter(device)()
            ended.close()

        run(begin, end)
    peak = torch.cuda.max_memory_allocated(device) if is_gpu else None
    return Recorded(recorded, peak, _mark_seconds(device))


def _mark_seconds(device: torch.device, steps: int = 500) -> float:
    """Measures the seconds that a range takes under a profiler, without those inside the range.

    As in a call, a step contains two ranges. They do some work, since ranges in a cache are faster.
    """
    work = np.random.default_rng(0).random(1000)
    part = SimpleNamespace(call=lambda: np.sort(work))
    mark_method(part, "call", "part", marker(device))
    step = step_marker(device)
    with (
        _without_chatter(),
        profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded,
    ):
        part.call()
        began = time.perf_counter()
        for number in range(steps):
            with step(number):
                part.call()
                part.call()
        took = time.perf_counter() - began
    spans = [event.time_range for event in recorded.events() or () if event.name == "part"]
    inside = 1e-6 * sum(span.end - span.start for span in spans[1:])
    return max(0.0, took - inside) / (3 * steps)


def write_trace(recorded: profile, path: Path) -> None:
    """Writes a trace for Perfetto and chrome://tracing. Raises OSError if it is incomplete.

    torch raises no error if the disk is full, and leaves a temporary file beside the path.
    """
    with _without_chatter():
        recorded.export_chrome_trace(str(path))
    if not (path.is_file() and _ends_as_json(path)):
        raise OSError(0, "torch wrote an incomplete trace")


def _ends_as_json(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
        return file.read().rstrip().endswith(b"}")


def marker(device: torch.device) -> Mark:
    """Returns a function that marks a range in the trace, and on a GPU for NVIDIA tools, too."""
    if device.type == "cpu":
        return _range

    def both(name: str) -> ExitStack:
        with ExitStack() as entered:
            entered.enter_context(_range(name))
            entered.enter_context(torch.cuda.nvtx.range(name))
            return entered.pop_all()

    return both


def step_marker(device: torch.device) -> Callable[[int], contextlib.AbstractContextManager[Any]]:
    """Returns a function that marks call number n."""
    mark = marker(device)
    return lambda number: mark(f"{STEP}{number}")


@contextlib.contextmanager
def _named(what: str, is_gpu: bool) -> Iterator[None]:
    """Range in the trace, and on a GPU for NVIDIA tools."""
    with record_function(what), torch.cuda.nvtx.range(what) if is_gpu else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Within, standard error is captured, and printed at the end without lines of the profiler.

    They come from C++, so that sys.stderr cannot capture them.
    """
    try:
        outer = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(outer, 2)
            os.close(outer)
            kept.seek(0)
            for line in kept:
                if not _CHATTER.match(line):
                    _write_all(line)


def _write_all(line: bytes) -> None:
    with contextlib.suppress(OSError):  # the reader of a pipe has exited
        while line:
            line = line[os.write(2, line) :]
