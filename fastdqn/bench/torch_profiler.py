"""Recording: calls that run under torch's profiler, and the trace of them as a file."""

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
# What torch says on standard error whenever it profiles: nothing that anyone could act upon.
_CHATTER = re.compile(
    rb"USDT:.*profiler_st|\[W[^]]* CPUAllocator\.cpp:\d+\] Memory block of unkn|"
    rb"ERROR:.* output_json\.cpp|"  # told as an error of ours
    rb"ERROR:.* DeviceProperties\.cpp"  # the CUDA build of torch, where there is no GPU
)


class Recorded(NamedTuple):
    """A profile of calls.

    peak_bytes  of the GPU's memory, the calls' own and what they were given; None on a CPU
    """

    profile: profile
    peak_bytes: int | None


def record(what: str, device: torch.device, run: Callable[[Call, Call], None]) -> Recorded:
    """Record what run(begin, end) does between the two calls that it is given, in a range `what`.

    The device has nothing left to do when recording ends.
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
            ended.callback(recorded.stop)  # an exception through a running one crashes torch
            ended.enter_context(_named(what, is_gpu))

        def end() -> None:
            waiter(device)()
            ended.close()

        run(begin, end)
    return Recorded(recorded, torch.cuda.max_memory_allocated(device) if is_gpu else None)


def write_trace(recorded: profile, path: Path) -> None:
    """A trace that Perfetto and chrome://tracing open. Raises OSError where it is not whole.

    torch raises nothing where the disk is full, and leaves a file beside the path.
    """
    with _without_chatter():
        recorded.export_chrome_trace(str(path))
    if not (path.is_file() and _ends_as_json(path)):
        raise OSError(0, "torch could not write the whole trace")


def _ends_as_json(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
        return file.read().rstrip().endswith(b"}")


@contextlib.contextmanager
def _named(what: str, is_gpu: bool) -> Iterator[None]:
    """A range in the trace, and for NVIDIA's own tools."""
    with record_function(what), torch.cuda.nvtx.range(what) if is_gpu else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Within, standard error is kept; all but the profiler's own lines is passed on at the end.

    They come from C++, which knows no sys.stderr.
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
    with contextlib.suppress(OSError):  # whoever read it has gone
        while line:
            line = line[os.write(2, line) :]
