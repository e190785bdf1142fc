"""What torch.compile needs on a CPU."""

import os
import shutil

import pytest

# Under this setting torch's own compiler emits C++ that includes no vector classes, and names them.
_WITHOUT_VECTORS = os.environ.get("ATEN_CPU_CAPABILITY") == "default"
needs_a_compiler = pytest.mark.skipif(
    not shutil.which("g++") or _WITHOUT_VECTORS,
    reason="torch.compile needs a C++ compiler, and another ATEN_CPU_CAPABILITY than default",
)
