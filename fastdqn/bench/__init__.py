"""Benchmarks and profiles of a run: each component alone, and all together."""
