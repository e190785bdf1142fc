"""ETA: estimates the remaining time of a run from its recent speed."""

from collections import deque

# Minimum ratio of the times of two samples, which limits a run to some hundreds of samples.
_APART = 1.01
# Learning is measured for this fraction of the budget, less than a row of the default frequency, or
# for this many seconds, before an estimate is shown: a few updates alone are noise. Not tuned.
_FRACTION, _SECONDS = 0.004, 5.0
# Maximum ratio of the paces of two successive estimates. Not tuned.
_CHANGE = 1.5


class ETA:
    """Estimates the remaining seconds by the speed in the second half of the elapsed time.

    The first steps of a run are random actions, and later ones may take a hundred times as long.
    So the caller calls it from the first row on whose steps include updates, and time before that
    call does not count. Evaluations and checkpoints are rare and long, so they count with their
    mean over the whole run. The first one may still multiply the estimate, which then follows over
    some rows.
    """

    def __init__(self):
        self._samples: deque[tuple[float, float]] = deque()  # (seconds since the start, fraction)
        self._start = (0.0, 0.0)
        self._pace: float | None = None  # seconds per budget, as shown last

    def __call__(self, elapsed: float, fraction: float, aside: float = 0.0) -> float | None:
        """Returns the remaining seconds, or None if they are not known yet.

        Args:
            elapsed: Elapsed seconds.
            fraction: Fraction of the budget that is spent, in [0, 1].
            aside: Those of the elapsed seconds that evaluations and checkpoints took.
        """
        if fraction >= 1.0:
            return 0.0
        if not self._samples:
            self._start = (elapsed - aside, fraction)
            self._samples.append((0.0, fraction))
            return None
        now = elapsed - aside - self._start[0]
        if now > self._samples[-1][0] * _APART:
            self._samples.append((now, fraction))
        while len(self._samples) > 2 and self._samples[1][0] <= now / 2:
            self._samples.popleft()
        if fraction - self._start[1] < _FRACTION and now < _SECONDS and self._pace is None:
            return None
        then, before = self._samples[0]
        if fraction <= before:
            return None
        pace = (now - then) / (fraction - before) + aside / fraction
        if self._pace is not None:
            pace = min(max(pace, self._pace / _CHANGE), self._pace * _CHANGE)
        self._pace = pace
        return (1.0 - fraction) * pace
