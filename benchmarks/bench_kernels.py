"""Benchmark of the functions in vector instructions, next to NumPy and torch on one thread.

Microseconds per thousand numbers are nanoseconds per number. Softmax has 51 rows of a block.

python benchmarks/bench_kernels.py
"""

import numba
import numpy as np
import torch

from fastdqn.bench.repeats import by_turns
from fastdqn.bench.results import Figure
from fastdqn.kernels import vector_math
from fastdqn.kernels.matmul import LANES
from fastdqn.kernels.vectors import load, store
from harness import effort_of, main_of, parser, save, show

_SIZE = 4096
_ROWS = 51


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 20.0, _SIZE).astype(np.float32)
    logits = rng.normal(size=(_ROWS, vector_math.BLOCK)).astype(np.float32)
    calls = {"exp": of_function(x, "exp"), "log": of_function(x, "log")}
    calls |= {"cos": of_function(x, "cos"), "erf": of_function(x, "erf")}
    calls |= {name: of_softmax(logits, name) for name in ("softmax", "log_softmax")}
    figures = []
    for name, ways in calls.items():
        numbers = logits.size if "softmax" in name else x.size
        for way, rate in by_turns(ways, effort_of(args)).items():
            of = {"function": name, "by": way}
            key = "thousand_numbers_per_second"
            figures.append(Figure("kernels", key, rate.scaled(numbers / 1000), of))
    save(args, show("functions of float32", figures), threads=1)


def of_function(x: np.ndarray, name: str) -> dict:
    """Returns calls that apply a function to all of x, by what computes it."""
    function, out = getattr(vector_math, f"{name}32"), np.empty_like(x)
    loop, vectors = in_loop(function), in_vectors(function)
    tensor, to = torch.from_numpy(x), torch.from_numpy(out)
    calls = {
        "loop": lambda: loop(x, out),
        "vectors": lambda: vectors(x, out),
        "torch": lambda: getattr(torch, name)(tensor, out=to),
    }
    if hasattr(np, name):
        calls["numpy"] = lambda: getattr(np, name)(x, out=out)
    return {way: _without_result(call) for way, call in calls.items()}


def in_loop(function):
    """Returns a kernel that leaves the choice of vectors to LLVM."""

    @numba.njit(error_model="numpy")
    def apply(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    return apply


def in_vectors(function):
    """Returns a kernel that loads and stores vectors."""

    @numba.njit(error_model="numpy")
    def apply(x, y):
        for i in range(0, len(x), LANES):
            store(y, i, function(load(x, i)))

    return apply


def of_softmax(x: np.ndarray, name: str) -> dict:
    """Returns calls of a softmax over the rows of x [rows, BLOCK]; torch's rows are contiguous."""
    kernel, out = getattr(vector_math, f"{name}_block"), np.empty_like(x).ravel()
    tensor = torch.from_numpy(x.T.copy())
    rows, block = x.shape
    flat = x.ravel()
    calls = {
        "vectors": lambda: kernel(flat, 0, block, rows, out, 0, block),
        "torch": lambda: getattr(torch, name)(tensor, 1),
    }
    return {way: _without_result(call) for way, call in calls.items()}


def _without_result(call):
    def timed() -> None:
        call()

    return timed


if __name__ == "__main__":
    main_of(main)
