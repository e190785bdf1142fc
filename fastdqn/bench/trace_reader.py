"""Timeline: operators, launches and busy time of one call, from a recorded profile."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.profiler import profile

from fastdqn.bench.torch_profiler import STEP
from fastdqn.learning.marks import KERNELS, PARTS
from fastdqn.training.marks import PHASES

# Largest share of the recorded time that may be left out as time of the profiler. Ours, untuned.
_MOST_CORRECTED = 0.5


class Timeline(NamedTuple):
    """Averages per call, while it was profiled.

    Attributes:
        launches: Kernels and copies on a GPU. On a CPU, operators that compute and call no other
            operator that does.
        host_launches: Launches by the host. A graph needs one for all of its kernels.
        busy_seconds: Seconds in which the device, or any operator, was busy.
        seconds: Duration.
        allocated: Allocated bytes on the device.
        operators: Rows by descending time. On a GPU these are kernels and copies.
        phases: Rows of marked ranges: phases of the loop, and parts and kernels inside them.
        attributed: Fraction of the time within a marked range, an operator, or on a GPU a kernel or
            a CUDA call.
    """

    launches: float
    host_launches: float
    busy_seconds: float
    seconds: float
    allocated: float
    operators: list[dict[str, Any]]
    phases: Sequence[dict[str, Any]] = ()
    attributed: float = 1.0


def read_timeline(
    recorded: profile,
    what: str,
    calls: int,
    is_gpu: bool,
    shapes: bool = False,
    mark_seconds: float = 0.0,
) -> Timeline:
    """Reads a profile of calls calls, all in one range named what.

    Args:
        recorded: The profile.
        what: Name of the range.
        calls: Number of calls.
        is_gpu: Whether the device is a GPU.
        shapes: Whether operators with different shapes of inputs are different rows.
        mark_seconds: Time of the profiler around a marked range, which is left out. If it is most
            of the recorded time, the calls are too short, and it counts as time of the calls: it is
            then in no range, and not attributed.
    """
    everything = list(recorded.events() or ())
    # From the first call to the end of the last: the profiler itself is busy before and after.
    steps = [event for event in everything if _is_step(event.name) and not _is_on_gpu(event)]
    calls_range = [event for event in everything if event.name == what]
    spans = [
        event.time_range for event in steps or calls_range if event.device_type == DeviceType.CPU
    ]
    events = [event for event in everything if event.name != what and not _is_step(event.name)]
    marked = [event for event in events if event.name in _MARKS and not _is_on_gpu(event)]
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    if is_gpu:
        work = [event for event in events if _is_on_gpu(event)]
        launches = len(work)
        end = max([end, *(event.time_range.end for event in work)])
    else:
        # Operators on the thread of autograd have no parent, and are outermost, too.
        work = [event for event in events if _is_outermost(event, what)]
        launches = sum(_computes(event) and not _delegates(event) for event in events)
    rows = recorded.key_averages(group_by_input_shape=True) if shapes else recorded.key_averages()
    outermost_marks = sum(not _is_within_a_mark(event, what) for event in (*marked, *steps))
    calls_of_cuda = [event for event in events if is_gpu and event.name.startswith(("cuda", "cu"))]
    covered = _covered(map(_span, (*marked, *work, *calls_of_cuda)))
    of_marks = 1e6 * mark_seconds * outermost_marks
    if of_marks > _MOST_CORRECTED * (end - start):
        of_marks = 0.0
    # What lies within ranges was not spent around them.
    whole = max(end - start - of_marks, covered, 1e-9)
    return Timeline(
        launches / calls,
        (sum(map(_launches, events)) if is_gpu else launches) / calls,
        _covered(map(_span, work)) * 1e-6 / calls,
        whole * 1e-6 / calls,
        sum(max(0, _allocated(row, is_gpu)) for row in rows) / calls,
        _operators([row for row in rows if not _is_container(row.key, what)], calls, is_gpu),
        _phases(marked, whole, calls),
        covered / whole,
    )


def _is_on_gpu(event: Any) -> bool:
    """Returns whether an event is a kernel or a copy, and not a user annotation."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def _launches(event: Any) -> bool:
    """Returns whether an event is a CUDA call that launches work on the device."""
    return event.device_type == DeviceType.CPU and event.name.startswith(_LAUNCHES)


def copied_bytes(trace: Path, calls: int) -> dict[str, float]:
    """Returns the bytes copied to the device and to the host, per call, from a trace.

    Raises:
        OSError: The trace cannot be read.
    """
    totals = {"HtoD": 0, "DtoH": 0}
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("cat") == "gpu_memcpy":
            for way in totals:
                if way in event["name"]:
                    totals[way] += event["args"]["bytes"]
    return {
        "bytes_to_device_per_call": totals["HtoD"] / calls,
        "bytes_to_host_per_call": totals["DtoH"] / calls,
    }


# Ranges that contain operators, and are none.
_CONTAINERS = frozenset((*PHASES, *PARTS))
_MARKS = _CONTAINERS | set(KERNELS)


def _is_step(name: str) -> bool:
    return name.startswith(STEP[:-1])  # averages have a * in place of the number


def _is_within_a_mark(event: Any, what: str) -> bool:
    parent = event.cpu_parent
    while parent is not None and (parent.name not in _MARKS or parent.name == what):
        parent = parent.cpu_parent
    return parent is not None


def _is_container(name: str, what: str) -> bool:
    return name == what or name in _CONTAINERS or _is_step(name)


def _is_outermost(event: Any, what: str) -> bool:
    """Returns whether an event is an operator or a kernel that no other contains."""
    parent = event.cpu_parent
    while parent is not None and _is_container(parent.name, what):
        parent = parent.cpu_parent
    is_operator = event.device_type == DeviceType.CPU and not _is_container(event.name, what)
    return is_operator and parent is None


def _span(event: Any) -> tuple[float, float]:
    return event.time_range.start, event.time_range.end


# Names in CUPTI, of the runtime API and the driver API.
_LAUNCHES = (
    "cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperative", "cudaGraphLaunch",
    "cuGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync",
)  # fmt: skip
# Operators that only describe or allocate memory, and compute nothing.
_NO_WORK = frozenset(
    {
        "aten::alias", "aten::as_strided", "aten::broadcast_tensors", "aten::chunk",
        "aten::contiguous", "aten::detach", "aten::detach_", "aten::empty", "aten::empty_like",
        "aten::empty_strided", "aten::expand", "aten::expand_as", "aten::flatten", "aten::item",
        "aten::lift_fresh", "aten::narrow", "aten::new_empty", "aten::permute", "aten::reshape",
        "aten::resize_", "aten::resolve_conj", "aten::resolve_neg", "aten::result_type",
        "aten::select", "aten::set_", "aten::slice", "aten::split", "aten::squeeze", "aten::t",
        "aten::to", "aten::transpose", "aten::unbind", "aten::unflatten", "aten::unfold",
        "aten::unsqueeze", "aten::view", "aten::view_as", "aten::_local_scalar_dense",
        "aten::_reshape_alias", "aten::_unsafe_view",
    }
)  # fmt: skip
# Part of the names of compiled CPU kernels of torch, see cpp.enable_kernel_profile.
_COMPILED = "cpp_fused"


def _computes(event: Any) -> bool:
    is_operator = event.name.startswith("aten::") and event.name not in _NO_WORK
    return is_operator or _COMPILED in event.name or event.name in KERNELS


def _delegates(event: Any) -> bool:
    """Returns whether an operator inside this one does the work."""
    return any(_computes(child) or _delegates(child) for child in event.cpu_children)


def _allocated(row: Any, is_gpu: bool) -> int:
    return row.self_device_memory_usage if is_gpu else row.self_cpu_memory_usage


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Returns the length of the union of spans: operators of threads may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _operators(rows: list[Any], calls: int, is_gpu: bool) -> list[dict[str, Any]]:
    """Returns rows of operators. On a GPU only kernels are kept: operators repeat their time.

    Shares are those of the own time of an operator, without the operators that it calls.
    """
    if is_gpu:
        spent = [
            (row.self_device_time_total, row.device_time_total, row)
            for row in rows
            if _is_on_gpu(row)
        ]
    else:
        spent = [(row.self_cpu_time_total, row.cpu_time_total, row) for row in rows]
    total = sum(own for own, _, _ in spent) or 1.0
    spent.sort(key=lambda each: -each[0])
    return [
        {
            "name": row.key,
            **_shapes(row),
            "calls_per_call": row.count / calls,
            "self_microseconds_per_call": own / calls,
            "total_microseconds_per_call": whole / calls,
            "share": own / total,
        }
        for own, whole, row in spent
        if own > 0
    ]


def _shapes(row: Any) -> dict[str, Any]:
    """Returns the shapes of the inputs, without those of numbers, if they were recorded."""
    shapes = [shape for shape in getattr(row, "input_shapes", None) or () if shape]
    return {"shapes": shapes} if shapes else {}


def _phases(marked: list[Any], whole: float, calls: int) -> list[dict[str, Any]]:
    """Returns rows of marked ranges by descending time. Shares are those of the whole time.

    A range inside another is a row of its own, so that shares may add up to more than one.
    """
    spent: dict[str, list[float]] = {}
    for event in marked:
        spent.setdefault(event.name, []).append(event.time_range.end - event.time_range.start)
    rows = [
        {
            "name": name,
            "kind": "phase" if name in PHASES else "kernel" if name in KERNELS else "part",
            "calls_per_call": len(times) / calls,
            "microseconds_per_call": sum(times) / calls,
            "share": sum(times) / whole,
        }
        for name, times in spent.items()
    ]
    return sorted(rows, key=lambda row: -row["microseconds_per_call"])
