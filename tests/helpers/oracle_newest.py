"""A slow reference of NewestSampler: a list of all rows that became valid, and a position."""

from fastdqn.replay import Replay
from helpers.oracles import valid_rows


class Line:
    """Rows in the order in which they became valid, with lanes in the order of the call."""

    def __init__(self, replay: Replay):
        self.replay, self.rows, self.place, self.begun = replay, [], 0, False

    def follow(self, lanes) -> None:
        """Updates the list. Called after each call of the replay with these lanes."""
        valid, known = sorted(map(int, valid_rows(self.replay))), set(self.rows)
        for lane in lanes:
            mine = [row for row in valid if row % self.replay.ring.num_lanes == lane]
            self.rows += [row for row in mine if row not in known]

    def draw(self, batch_size: int) -> list[int]:
        """Returns the rows of a batch, and fails if there are too few."""
        if not self.begun:
            most = batch_size + self.replay.ring.num_lanes * self.replay.n_steps
            self.place, self.begun = max(0, len(self.rows) - most), True
        drawn = self.rows[self.place : self.place + batch_size]
        assert len(drawn) == batch_size
        self.place += batch_size
        return drawn
