"""ETA: estimates the remaining time of a run from its recent speed."""

from collections import deque

# Minimum ratio of the times of two samples, which limits a run to some hundreds of samples.
_APART = 1.01


class ETA:
    """Estimates the remaining seconds by the speed in the second half of the elapsed time.

    The first steps of a run are random actions, and later ones may take a hundred times as long.
    The caller starts it with the first update. Later changes of speed, such as of the length of
    episodes, are followed by the second half.

    Args:
        elapsed: Elapsed seconds at its start.
        fraction: Fraction of the budget that was spent then.
    """

    def __init__(self, elapsed: float = 0.0, fraction: float = 0.0):
        self._start = elapsed
        self._samples: deque[tuple[float, float]] = deque([(elapsed, fraction)])

    def __call__(self, elapsed: float, fraction: float) -> float | None:
        """Returns the remaining seconds, or None if they are not known yet.

        Args:
            elapsed: Elapsed seconds.
            fraction: Fraction of the budget that is spent, in [0, 1].
        """
        if elapsed >= self._samples[-1][0] * _APART:
            self._samples.append((elapsed, fraction))
        while len(self._samples) > 2 and self._samples[1][0] <= (self._start + elapsed) / 2:
            self._samples.popleft()
        then, before = self._samples[0]
        if fraction <= before:
            return None
        return max(0.0, 1.0 - fraction) * (elapsed - then) / (fraction - before)
