"""Fixtures of the command line's tests."""

from helpers.sweeps import trained

__all__ = ["trained"]
