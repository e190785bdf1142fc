"""Roofline: peak bandwidth and FLOP/s of a device, and the work of an update."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdqn.bench.learner_speed import waiter
from fastdqn.bench.repeats import Effort, repeat
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.learner import Learner

# Least share of the time that must be attributed for a verdict.
LEAST_ATTRIBUTED = 0.9
# Error of a measured share. On a shared machine, the ceilings differ by a fifth between two runs.
_ERROR = 0.2
# A copy that exceeds all caches, and a matrix product that uses all cores or multiprocessors.
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
_PRODUCT = {"cpu": 1024, "cuda": 8192}


class Ceilings(NamedTuple):
    """Measured peaks of a device: a large copy (read and write), and a large float32 product."""

    bytes_per_second: float
    flops_per_second: float

    @property
    def ridge_point(self) -> float:
        """Arithmetic intensity in FLOP per byte from which a call can reach the peak FLOP/s."""
        return self.flops_per_second / self.bytes_per_second


class Work(NamedTuple):
    """Work of one call: floating-point operations, and the least bytes that must be moved."""

    flops: int
    least_bytes: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOP per byte. Below the ridge point, the bandwidth is the limit.

        Source: Williams et al. 2009, Roofline, Communications of the ACM 52(4).
        """
        return self.flops / max(self.least_bytes, 1)


def measure_ceilings(device: torch.device, effort: Effort) -> Ceilings:
    """Measures the peaks, with the current threads and precision."""
    wait = waiter(device)
    # Random numbers, because a GPU takes less power for equal ones, and then runs faster.
    source = torch.rand(_COPY_BYTES[device.type] // 4, device=device)
    out = torch.empty_like(source)
    copies = repeat(lambda: _drop(out.copy_(source)), effort, finish=wait)
    n = _PRODUCT[device.type]
    a, b, c = (torch.rand(n, n, device=device) for _ in range(3))
    products = repeat(lambda: _drop(torch.mm(a, b, out=c)), effort, finish=wait)
    return Ceilings(copies.median * 2 * source.nbytes, products.median * 2 * n**3)


def count_update(learner: Learner, staging: Staging) -> Work:
    """Returns the work of one update.

    Its least bytes are those of reading the batch and the target weights once, and of reading and
    writing weights and both moments of Adam once. Everything else could stay in a cache.
    """
    flops = count_flops(lambda: learner.prepare(staging.device))
    batch = sum(tensor.nbytes for tensor in staging.device if tensor is not None)
    return Work(flops, batch + 7 * learner.online.weights.nbytes)


def count_flops(call: Callable[[], object]) -> int:
    """Counts FLOPs of matrix products and convolutions, forward and backward.

    A product of n x n matrices has 2 n^3. Compiled graphs are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _drop(_: object) -> None:
    """Drops a result, which repeat() would use as a count."""


def unattributed(attributed: float) -> str:
    """Returns why there is no verdict, for the attributed share of the time."""
    return (
        f"none, since only {100 * attributed:.0f} % of the time was attributed to phases and "
        f"operators: {100 * LEAST_ATTRIBUTED:.0f} % are needed"
    )


def phases_verdict(shares: dict[str, float]) -> str:
    """Returns the largest phases of a loop: the first, and others with a tenth of the time."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    kept = [f"{name} {100 * share:.0f} %" for name, share in ordered[:1]]
    kept += [f"{name} {100 * share:.0f} %" for name, share in ordered[1:] if share >= 0.1]
    return "the largest phases are " + ", ".join(kept) if len(kept) > 1 else f"{kept[0]} of a turn"


def verdict(
    work: Work | None, seconds: float, ceilings: Ceilings, busy: float, is_gpu: bool
) -> str:
    """Returns what bounds a call.

    - launch-bound: the GPU waits for launches.
    - overhead-bound: on a CPU, Python and dispatch take most of the time, or operators are busy
      but reach less than a third of both peaks.
    - latency-bound: the GPU is busy, but its kernels are too small to reach a third of a peak.
    - compute-bound, memory-bound: the peak that is nearer.
    - device-bound, operator-bound: busy with work that is not counted.

    Where a measurement that is off by _ERROR would change the answer, all are named: "memory-bound
    or compute-bound".

    Args:
        work: Work of a call, or None if unknown.
        seconds: Duration of a call without a profiler.
        ceilings: Peaks of the device.
        busy: Fraction of it in which the GPU, or an operator of torch, was busy.
        is_gpu: Whether the device is a GPU.
    """
    reached = None if work is None else shares(work, seconds, ceilings)
    found = [_bound(busy, reached, is_gpu)]
    for error in (1 - _ERROR, 1 + _ERROR):
        found.append(_bound(busy * error, reached, is_gpu))
        if reached is not None:
            arithmetic, moving = reached
            found.append(_bound(busy, (arithmetic * error, moving), is_gpu))
            found.append(_bound(busy, (arithmetic, moving * error), is_gpu))
    return " or ".join(dict.fromkeys(found))


def _bound(busy: float, reached: tuple[float, float] | None, is_gpu: bool) -> str:
    """Returns what bounds a call; reached are fractions of peak FLOP/s and peak bandwidth."""
    idle = "launch-bound" if is_gpu else "overhead-bound"
    if busy < 0.5:
        return idle
    if reached is None:
        return "device-bound" if is_gpu else "operator-bound"
    if max(reached) < 1 / 3:
        return "latency-bound" if is_gpu else idle
    arithmetic, moving = reached
    return "compute-bound" if arithmetic >= moving else "memory-bound"


def remedy(bound: str, is_gpu: bool, is_fused: bool) -> str | None:
    """Returns options that may help against a bound of verdict(), or None."""
    if bound == "overhead-bound":
        return "increase --batch-size" if is_fused else "--learner fused, or a larger --batch-size"
    if bound == "launch-bound":
        return "--capture graph, --updates-per-launch 8"
    if bound == "latency-bound":
        return "increase --batch-size"
    if bound == "compute-bound":
        smaller = "a smaller network (--hidden-sizes)"
        return f"--precision bf16, {smaller}" if is_gpu else smaller
    return "smaller observations or a smaller network" if bound == "memory-bound" else None


def shares(work: Work, seconds: float, ceilings: Ceilings) -> tuple[float, float]:
    """Returns the achieved fractions of peak FLOP/s and of peak bandwidth."""
    return (
        work.flops / seconds / ceilings.flops_per_second,
        work.least_bytes / seconds / ceilings.bytes_per_second,
    )
