"""Builds the parts of a run from its options: environments, replay, agent, recorder."""
