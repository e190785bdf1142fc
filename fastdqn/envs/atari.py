"""Atari's lanes: ale-py's own vector environment at a protocol's settings, all of them named."""

from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv


def make_atari(
    spec: EnvSpec, settings: dict[str, Any], num_envs: int, batch_size: int | None
) -> VectorEnv:
    """Lanes in threads of C++.

    settings    as atari.settings() gives them
    batch_size  lanes whose answers a call waits for; None: all
    """
    # Clipping is the replay's: the record has true scores.
    told: dict[str, Any] = {**settings, "reward_clipping": False}
    envs: Any = gymnasium.make_vec(
        spec, num_envs, "vector_entry_point", batch_size=batch_size or num_envs, **told
    )
    envs.unwrapped.life_loss_info = settings["life_loss_info"]  # it keeps none, see lives.py
    return envs
