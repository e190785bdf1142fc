"""Whether torch.compile works on this CPU, and a fast stand-in that emits no code."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastdqn.learning.cuda_streams import one_by_one
from fastdqn.learning.graph_capture import Call, Capture, Keep, Whole, eager

# With this setting torch.compile emits C++ that uses vector classes without including them.
_WITHOUT_VECTORS = os.environ.get("ATEN_CPU_CAPABILITY") == "default"
needs_a_compiler = pytest.mark.skipif(
    not shutil.which("g++") or _WITHOUT_VECTORS,
    reason="torch.compile needs a C++ compiler, and another ATEN_CPU_CAPABILITY than default",
)


class _Traced:
    """Traces pieces as torch.compile does, forward and backward, and runs them as PyTorch code.

    Half a minute of C++ is not compiled: tests of real kernels use graph_capture.compiled.
    """

    branches = one_by_one

    def piece(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False, backend="aot_eager")

    def whole(self, call: Call, keep: Keep, name: str, generators: Any = ()) -> Whole:
        return eager.whole(call, keep, name)


traced: Capture = _Traced()
