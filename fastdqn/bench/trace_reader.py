"""Timeline: operators, launches and busy time of one call, from a recorded profile."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.profiler import profile


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
    """

    launches: float
    host_launches: float
    busy_seconds: float
    seconds: float
    allocated: float
    operators: list[dict[str, Any]]


def read_timeline(recorded: profile, what: str, calls: int, is_gpu: bool) -> Timeline:
    """Reads a profile of calls calls, all in one range named what."""
    everything = list(recorded.events() or ())
    spans = [
        event.time_range
        for event in everything
        if event.name == what and event.device_type == DeviceType.CPU
    ]
    events = [event for event in everything if event.name != what]
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    if is_gpu:
        work = [event for event in events if _is_on_gpu(event)]
        launches = len(work)
        end = max([end, *(event.time_range.end for event in work)])
    else:
        # Operators on the thread of autograd have no parent, and are outermost, too.
        work = [event for event in events if _is_outermost(event, what)]
        launches = sum(_computes(event) and not _delegates(event) for event in events)
    rows = recorded.key_averages()
    return Timeline(
        launches / calls,
        (sum(map(_launches, events)) if is_gpu else launches) / calls,
        _covered((event.time_range.start, event.time_range.end) for event in work) * 1e-6 / calls,
        max(end - start, 1e-9) * 1e-6 / calls,
        sum(max(0, _allocated(row, is_gpu)) for row in rows) / calls,
        _operators([row for row in rows if row.key != what], calls, is_gpu),
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


def _is_outermost(event: Any, what: str) -> bool:
    parent = event.cpu_parent
    return event.device_type == DeviceType.CPU and (parent is None or parent.name == what)


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
FUSED = "fused update"  # name of the range around the Numba kernel


def _computes(event: Any) -> bool:
    is_operator = event.name.startswith("aten::") and event.name not in _NO_WORK
    return is_operator or _COMPILED in event.name or event.name == FUSED


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
    """Returns rows of operators. On a GPU only kernels are kept: operators repeat their time."""
    if is_gpu:
        spent = [(row.self_device_time_total, row) for row in rows if _is_on_gpu(row)]
    else:
        spent = [(row.self_cpu_time_total, row) for row in rows]
    total = sum(time for time, _ in spent) or 1.0
    spent.sort(key=lambda pair: -pair[0])
    return [
        {
            "name": row.key,
            "calls_per_call": row.count / calls,
            "microseconds_per_call": time / calls,
            "share": time / total,
        }
        for time, row in spent
        if time > 0
    ]
