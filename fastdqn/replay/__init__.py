"""Host memory for experience: the ring, the stores, the samplers. Usable on its own."""

from fastdqn.plain import Rows
from fastdqn.replay.batch import Batch, ObsStore, new_batch
from fastdqn.replay.frames import FrameStore, UnstackedError
from fastdqn.replay.newest import NewestSampler
from fastdqn.replay.prioritized import PrioritizedSampler
from fastdqn.replay.replay import Replay
from fastdqn.replay.ring import Ring, rows_per_lane
from fastdqn.replay.rows import RowStore
from fastdqn.replay.sampler import Sampler
from fastdqn.replay.uniform import UniformSampler

__all__ = [
    "Batch",
    "FrameStore",
    "NewestSampler",
    "ObsStore",
    "PrioritizedSampler",
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
