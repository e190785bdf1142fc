"""A slow reference of RecentSampler: the probability of every valid row."""

from fastdqn.replay import Replay
from helpers.oracles import valid_rows


def recent_probabilities(replay: Replay, recency: float) -> dict[int, float]:
    """Returns the probability of each valid row, by absolute row id."""
    added = replay.ring.added.tolist()
    fill, masses = min(max(added), replay.ring.rows), {}
    for index in valid_rows(replay).tolist():
        row, lane = divmod(index, len(added))
        newer = sum(1 for _ in range(row + 1, added[lane]))
        masses[index] = recency ** -(newer / fill)
    return {index: mass / sum(masses.values()) for index, mass in masses.items()}
