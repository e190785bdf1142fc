"""Whether torch.compile works on this CPU."""

import os
import shutil

import pytest

# With this setting torch.compile emits C++ that uses vector classes without including them.
_WITHOUT_VECTORS = os.environ.get("ATEN_CPU_CAPABILITY") == "default"
needs_a_compiler = pytest.mark.skipif(
    not shutil.which("g++") or _WITHOUT_VECTORS,
    reason="torch.compile needs a C++ compiler, and another ATEN_CPU_CAPABILITY than default",
)
