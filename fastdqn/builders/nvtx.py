"""NVTX ranges of a run: turns, phases and kernels, if a tool such as nsys records them."""

import os

from fastdqn.training.loop import Run

# A tool that records NVTX ranges names its library in the first, which NVTX loads. Nsight Systems
# also sets the second. The third is for tools that do neither.
_SIGNS = ("NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID", "FASTDQN_NVTX")
# Name of each turn of the loop. A number would make each turn a row of its own in summaries.
_TURN = "turn"


def mark_for_tools(run: Run) -> list[str]:
    """Marks a run with NVTX ranges if a tool records them. Returns lines about it.

    Otherwise nothing is imported or changed.
    """
    if not any(os.environ.get(name) for name in _SIGNS):
        return []
    from torch.cuda import nvtx

    from fastdqn.training.marks import PhaseRanges, mark_kernels

    try:
        with nvtx.range("fastdqn"):
            pass
    except RuntimeError:  # torch for CPUs has no NVTX
        return ["there are no NVTX ranges: they need a CUDA build of torch"]
    run.laps.ranges = PhaseRanges(nvtx.range, lambda _: nvtx.range(_TURN))
    mark_kernels(run, nvtx.range)
    return []
