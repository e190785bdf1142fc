"""Fixtures for tests of benchmarks."""

from helpers.measuring import clock, slow_parts

__all__ = ["clock", "slow_parts"]
