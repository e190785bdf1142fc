"""Vector clocks of the host and of each stream, and accesses that they do not order."""

from collections import defaultdict
from typing import NamedTuple

# The clock's index of the host. Streams have the other numbers.
HOST = -1
# Older accesses of a block are dropped, so that a long run needs little memory.
_KEPT = 64
Clock = dict[int, int]


class Access(NamedTuple):
    """A read or write of bytes [start, end) of a block by the host or a stream, at its time."""

    who: int
    time: int
    start: int
    end: int
    writes: bool
    what: str

    def overlaps(self, other: "Access") -> bool:
        return self.start < other.end and other.start < self.end


class Clocks:
    """For each of host and streams, the latest step of each other that it comes after."""

    def __init__(self):
        self._of = defaultdict[int, Clock](dict)

    def copy(self, who: int) -> Clock:
        return dict(self._of[who])

    def follow(self, who: int, other: int) -> None:
        """Orders all later steps of `who` after all earlier steps of `other`."""
        self.follow_clock(who, self._of[other])

    def follow_clock(self, who: int, clock: Clock) -> None:
        own = self._of[who]
        for other, time in clock.items():
            own[other] = max(time, own.get(other, 0))

    def follow_all(self) -> None:
        """Orders the host after everything, as a synchronization does."""
        for other in list(self._of):
            self.follow(HOST, other)

    def step(self, who: int) -> None:
        """Begins an operation. Work in a stream comes after what the host did before."""
        self.follow(who, HOST)
        self._of[who][who] = self._of[who].get(who, 0) + 1

    def conflict(self, past: list[Access], new: Access) -> Access | None:
        """Returns an earlier access that may happen at the same time as a new one."""
        known = self._of[new.who]
        for old in past:
            matters = (old.writes or new.writes) and old.overlaps(new)
            if matters and old.time > known.get(old.who, 0):
                return old
        return None

    def now(self, who: int) -> int:
        return self._of[who].get(who, 0)


def remembered(past: list[Access], new: Access) -> list[Access]:
    """Returns the accesses that later ones must be ordered after."""
    if new.writes:  # all that it covers came before it
        past = [old for old in past if not (new.start <= old.start and old.end <= new.end)]
    else:
        past = [old for old in past if old[0] != new.who or old[2:] != new[2:]]
    return [*past, new][-_KEPT:]
