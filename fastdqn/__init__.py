"""fastdqn: vectorised, high-throughput training of DQN-family agents on Gymnasium environments.

The rooms work alone: fastdqn.replay imports neither torch nor gymnasium. So the names below are
loaded when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastdqn.acting import EnvError, NonFiniteError, ObsReader
    from fastdqn.api import Trained, evaluate, load_policy, train
    from fastdqn.config import Config, ConfigError
    from fastdqn.presets import PRESETS
    from fastdqn.resuming import resume

__version__ = "0.1.0"
__all__ = [
    "PRESETS", "Config", "ConfigError", "EnvError", "NonFiniteError", "ObsReader", "Trained",
    "evaluate", "load_policy", "resume", "train",
]  # fmt: skip

_HOMES = {
    "PRESETS": "presets", "Config": "config", "ConfigError": "config",
    "resume": "resuming", "EnvError": "acting", "NonFiniteError": "acting", "ObsReader": "acting",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fastdqn' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastdqn.{_HOMES.get(name, 'api')}"), name)
