"""Kernels of a compiled update, which compiled_kernels.py counts."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_compiled_update_has_few_kernels(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script = importlib.import_module("compiled_kernels")
    calls = script.calls_of_update(32)
    assert calls["convolution"] == 9  # three passes
    assert 40 < script.kernels(calls) <= 70, calls
