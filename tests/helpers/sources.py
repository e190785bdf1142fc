"""The source files of the package."""

import ast
import functools
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "fastdqn"


FILES = sorted(PACKAGE.rglob("*.py"))


# Where learning/ meets NumPy. The rest of the room knows tensors only. The kernels of the fused
# update take arrays, and its object hands them the memory of the tensors.
MEETS_NUMPY = {
    "learning/batch_staging.py", "learning/policy.py", "learning/fused_kernel.py",
    "learning/fused_learner.py", "learning/fused_policy.py", "learning/priority_feedback.py",
    "learning/captured_policy.py", "learning/fused_categorical.py",
    "learning/fused_family.py", "learning/fused_passes.py", "learning/fused_backups.py",
    "learning/fused_scalar.py", "learning/fused_quantile.py", "learning/fused_hl_gauss.py",
    "learning/fused_implicit.py", "learning/fused_mlp.py", "learning/fused_heads.py",
    "learning/fused_torsos.py", "learning/device_store.py",
}  # fmt: skip


@functools.cache
def parse(source: str) -> ast.Module:
    """The tree of a source, for reading alone: the next test gets the same one."""
    return ast.parse(source)


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()
