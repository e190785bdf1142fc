"""The slow twin of NewestSampler: a list of all rows that ever became valid, and a place in it."""

from fastdqn.replay import Replay
from helpers.oracles import valid_rows


class Line:
    """Rows in the order in which they became valid, lane by lane as the lanes were named."""

    def __init__(self, replay: Replay):
        self.replay, self.rows, self.place, self.begun = replay, [], 0, False

    def follow(self, lanes) -> None:
        """To be called after every call of the replay that names these lanes."""
        valid, known = sorted(map(int, valid_rows(self.replay))), set(self.rows)
        for lane in lanes:
            mine = [row for row in valid if row % self.replay.ring.num_lanes == lane]
            self.rows += [row for row in mine if row not in known]

    def draw(self, batch_size: int) -> list[int]:
        """The rows of a batch; fails where they are not there."""
        if not self.begun:
            most = batch_size + self.replay.ring.num_lanes * self.replay.n_steps
            self.place, self.begun = max(0, len(self.rows) - most), True
        drawn = self.rows[self.place : self.place + batch_size]
        assert len(drawn) == batch_size
        self.place += batch_size
        return drawn
