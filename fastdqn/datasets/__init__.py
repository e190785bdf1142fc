"""Recorded episodes: read from files, data sets and runs, and played into a replay buffer."""

from fastdqn.datasets.episodes import DatasetError, Episodes, from_arrays
from fastdqn.datasets.minari_dataset import read_minari
from fastdqn.datasets.npz_file import read_npz, save_npz
from fastdqn.datasets.recorded_steps import play
from fastdqn.datasets.replay_episodes import episodes_of

__all__ = [
    "DatasetError",
    "Episodes",
    "episodes_of",
    "from_arrays",
    "play",
    "read_minari",
    "read_npz",
    "save_npz",
]
