"""The training loop, its callbacks, greedy evaluation and checkpoint schedule."""
