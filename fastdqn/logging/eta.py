"""Remaining: how long a run will still take, by how fast it was of late."""

from collections import deque

# Samples lie at least so much of the time apart: a run has some hundreds of them at most.
_APART = 1.01


class Remaining:
    """Seconds left, by the pace of the second half of the time that has passed.

    A run's first steps are random play, and later ones may take a hundred times as long: a mean
    over all of it would promise too little for most of the run.
    """

    def __init__(self):
        self._seen: deque[tuple[float, float]] = deque([(0.0, 0.0)])

    def __call__(self, elapsed: float, fraction: float) -> float | None:
        """fraction  of the budget spent after so many elapsed seconds; None where nothing is known
        yet."""
        if elapsed >= self._seen[-1][0] * _APART:
            self._seen.append((elapsed, fraction))
        while len(self._seen) > 2 and self._seen[1][0] <= elapsed / 2:
            self._seen.popleft()
        then, before = self._seen[0]
        if fraction <= before:
            return None
        return max(0.0, 1.0 - fraction) * (elapsed - then) / (fraction - before)
