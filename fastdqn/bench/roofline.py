"""Ceilings: what the device can do at best, and what an update needs at least."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdqn.bench.learner_speed import waiter
from fastdqn.bench.repeats import Effort, repeat
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.learner import Learner

# Sizes that no cache holds, and products that keep every core or multiprocessor busy.
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
_PRODUCT = {"cpu": 1024, "cuda": 8192}


class Ceilings(NamedTuple):
    """What this device reached: a large copy (read and write), a large float32 product."""

    bytes_per_second: float
    flops_per_second: float


class Work(NamedTuple):
    """What one call does: floating-point operations counted, bytes that must move at least."""

    flops: int
    least_bytes: int


def measure_ceilings(device: torch.device, effort: Effort) -> Ceilings:
    """Measured here and now, with the threads and the precision that are set."""
    wait = waiter(device)
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    out = torch.empty_like(source)
    copies = repeat(lambda: _drop(out.copy_(source)), effort, finish=wait)
    n = _PRODUCT[device.type]
    a, b, c = (torch.ones(n, n, device=device) for _ in range(3))
    products = repeat(lambda: _drop(torch.mm(a, b, out=c)), effort, finish=wait)
    return Ceilings(copies.median * 2 * source.nbytes, products.median * 2 * n**3)


def count_update(learner: Learner, staging: Staging) -> Work:
    """Of one update. Least bytes: the batch and the target weights read once, weights and both
    moments of Adam read and written once; all else could stay in a cache."""
    flops = count_flops(lambda: learner.prepare(staging.device))
    batch = sum(tensor.nbytes for tensor in staging.device if tensor is not None)
    return Work(flops, batch + 7 * learner.online.weights.nbytes)


def count_flops(call: Callable[[], object]) -> int:
    """Of matrix products and convolutions, forward and backward; a product of n x n matrices
    has 2 n^3. What compiled graphs do is not seen."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _drop(_: object) -> None:
    """repeat() takes a result for a count."""


def verdict(
    work: Work | None, seconds: float, ceilings: Ceilings, busy: float, is_gpu: bool
) -> str:
    """What bounds a call, in one word.

    seconds  of one call, measured without a profiler
    busy     share of it in which the GPU computed, or torch's operators ran

    launch-, overhead-bound  the GPU waits for launches; on a CPU, Python and dispatch take it: also
        where operators are busy, but their arithmetic and bytes could be had in under a third of it
    latency-bound  kernels keep the GPU busy, yet come to neither ceiling: each is small
    compute-, memory-bound  by the nearer ceiling
    device-, operator-bound  busy with work that nobody counted: with which, is not known
    """
    idle = "launch-bound" if is_gpu else "overhead-bound"
    if busy < 0.5:
        return idle
    if work is None:
        return "device-bound" if is_gpu else "operator-bound"
    arithmetic, moving = shares(work, seconds, ceilings)
    if max(arithmetic, moving) < 1 / 3:
        return "latency-bound" if is_gpu else idle
    return "compute-bound" if arithmetic >= moving else "memory-bound"


def shares(work: Work, seconds: float, ceilings: Ceilings) -> tuple[float, float]:
    """Achieved over possible: of arithmetic, of bytes."""
    return (
        work.flops / seconds / ceilings.flops_per_second,
        work.least_bytes / seconds / ceilings.bytes_per_second,
    )
