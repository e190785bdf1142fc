"""fastdqn: vectorized, high-throughput training of DQN-family agents on Gymnasium environments.

The public names are imported on first use, so that importing a subpackage such as fastdqn.replay
loads neither torch nor gymnasium.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastdqn.api import evaluate, load_policy, train
    from fastdqn.config.presets import PRESETS
    from fastdqn.config.schema import Config, ConfigError
    from fastdqn.envs import EnvError, NonFiniteError, ObsReader
    from fastdqn.resuming import resume
    from fastdqn.session import Trained

__version__ = "0.1.0"
__all__ = [
    "PRESETS", "Config", "ConfigError", "EnvError", "NonFiniteError", "ObsReader", "Trained",
    "evaluate", "load_policy", "resume", "train",
]  # fmt: skip

_MODULES = {
    "PRESETS": "fastdqn.config.presets", "Config": "fastdqn.config.schema",
    "ConfigError": "fastdqn.config.schema", "EnvError": "fastdqn.envs",
    "NonFiniteError": "fastdqn.envs", "ObsReader": "fastdqn.envs", "Trained": "fastdqn.session",
    "evaluate": "fastdqn.api", "load_policy": "fastdqn.api", "resume": "fastdqn.resuming",
    "train": "fastdqn.api",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fastdqn' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
