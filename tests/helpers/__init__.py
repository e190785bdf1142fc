"""Shared by the tests: environments, runs, oracles."""
