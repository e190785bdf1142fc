"""Window: the timed part of a run, between two step counts."""

import time
from collections.abc import Callable
from typing import Any


class Window:
    """Opens at the first tick with start_steps or more, and closes steps later.

    Everything before it is warm-up: interpreter, imports, compilation, the steps that only fill
    the replay buffer, and the first updates. A tick costs one comparison of integers.

    Args:
        start_steps: Steps at the start.
        steps: Steps of the window.
        started: time.time() when the process was started.
        clock: Returns seconds.
        cpu_clock: Returns CPU seconds of all threads.
    """

    def __init__(
        self,
        start_steps: int,
        steps: int,
        started: float,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ):
        self.start_steps, self.stop_steps = start_steps, start_steps + steps
        self._clock, self._cpu_clock = clock, cpu_clock
        self._started = started
        self._next = start_steps
        self._edges: list[tuple[float, float, int, int]] = []
        self._marks: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Records the time of a stage of the warm-up: imported, built."""
        self._marks[name] = time.time() - self._started

    def tick(self, steps: int, updates: int) -> bool:
        """Reports the progress. Returns whether the window is closed."""
        if steps < self._next:
            return False
        if not self._edges:
            self.mark("opened")
            self._next = self.stop_steps
            self._edges.append((self._clock(), self._cpu_clock(), steps, updates))
            return steps >= self.stop_steps
        if len(self._edges) == 1:
            self._edges.append((self._clock(), self._cpu_clock(), steps, updates))
        return True

    def result(self) -> dict[str, Any]:
        """Returns counts and seconds of the window. Raises ValueError if it has not closed."""
        if len(self._edges) < 2:
            raise ValueError(f"the run ended before step {self.stop_steps}")
        (began, cpu_began, first, updates), (ended, cpu_ended, last, now) = self._edges
        steps, seconds = last - first, ended - began
        return {
            "steps": steps,
            "updates": now - updates,
            "seconds": seconds,
            "steps_per_second": steps / seconds,
            "cores_used": (cpu_ended - cpu_began) / seconds,
            "warmup_seconds": self._marks["opened"],
            "import_seconds": self._marks.get("imported"),
            "build_seconds": self._marks.get("built", 0.0) - self._marks.get("imported", 0.0),
        }
