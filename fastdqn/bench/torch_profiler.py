"""Records calls with the profiler of torch, and exports the trace."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fastdqn.bench.learner_speed import waiter

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
    """

    profile: profile
    peak_bytes: int | None


def record(what: str, device: torch.device, run: Callable[[Call, Call], None]) -> Recorded:
    """Profiles what run(begin, end) does between begin() and end(), in a range named what.

    The device is synchronized before the recording ends.
    """
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_gpu
    recorded = profile(activities=activities, profile_memory=True)
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
    return Recorded(recorded, torch.cuda.max_memory_allocated(device) if is_gpu else None)


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
