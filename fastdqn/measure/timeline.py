"""Timeline: what a recorded profile says of one call: operators, launches, busy time, gaps."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.profiler import profile


class Timeline(NamedTuple):
    """Per call: launches (kernels on a GPU, operators that call no other on a CPU), gaps in
    seconds, bytes allocated; busy  share of the window in which the device, or any operator,
    was at work; operators  rows, dearest first."""

    launches: float
    busy: float
    gaps: float
    allocated: float
    operators: list[dict[str, Any]]


def read_timeline(recorded: profile, what: str, calls: int, is_gpu: bool) -> Timeline:
    """Read a profile of so many calls, each in a range named `what`."""
    events = [event for event in recorded.events() or () if event.name != what]
    ranges = [
        event.time_range
        for event in recorded.events() or ()
        if event.name == what and event.device_type == DeviceType.CPU
    ]
    if is_gpu:
        work = [
            event
            for event in events
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        ]
        launches = len(work)
    else:
        # Those of autograd's own thread have no parent either: they lie inside no other operator.
        work = [event for event in events if _is_outermost(event, what)]
        launches = sum(_is_leaf(event) for event in events)
    start = min(span.start for span in ranges)
    end = max(span.end for span in ranges)
    if is_gpu:
        end = max([end, *(event.time_range.end for event in work)])
    busy = _covered((event.time_range.start, event.time_range.end) for event in work)
    window = max(end - start, 1e-9)
    return Timeline(
        launches / calls,
        min(1.0, busy / window),
        max(0.0, window - busy) * 1e-6 / calls,
        sum(max(0, row.self_cpu_memory_usage) for row in recorded.key_averages()) / calls,
        _operators(recorded, what, calls, is_gpu),
    )


def _is_outermost(event: Any, what: str) -> bool:
    parent = event.cpu_parent
    return event.device_type == DeviceType.CPU and (parent is None or parent.name == what)


def _is_leaf(event: Any) -> bool:
    return event.name.startswith("aten::") and not event.cpu_children


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans: operators of several threads may lie side by side."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _operators(recorded: profile, what: str, calls: int, is_gpu: bool) -> list[dict[str, Any]]:
    rows = [row for row in recorded.key_averages() if row.key != what]
    spent = [
        (row.self_device_time_total if is_gpu else row.self_cpu_time_total, row) for row in rows
    ]
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
