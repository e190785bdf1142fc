"""Replay memory on the host: ring buffer, observation stores and samplers."""

from fastdqn.replay.batch import Batch, ObsStore, new_batch
from fastdqn.replay.checked_sampler import CheckedSampler
from fastdqn.replay.frame_store import FrameStore, UnstackedError
from fastdqn.replay.newest_sampler import NewestSampler
from fastdqn.replay.prioritized_sampler import PrioritizedSampler
from fastdqn.replay.recent_sampler import RecentSampler
from fastdqn.replay.replay_buffer import Replay
from fastdqn.replay.ring import Ring, rows_per_lane
from fastdqn.replay.row_store import RowStore
from fastdqn.replay.sampler import Sampler
from fastdqn.replay.uniform_sampler import UniformSampler
from fastdqn.state_dict import Rows

__all__ = [
    "Batch",
    "CheckedSampler",
    "FrameStore",
    "NewestSampler",
    "ObsStore",
    "PrioritizedSampler",
    "RecentSampler",
    "Replay",
    "Ring",
    "RowStore",
    "Rows",
    "Sampler",
    "UniformSampler",
    "UnstackedError",
    "new_batch",
    "rows_per_lane",
]
