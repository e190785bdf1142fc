"""make_atari(): ale-py's vector environment with every setting of an Atari protocol given."""

from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv


def make_atari(
    spec: EnvSpec, settings: dict[str, Any], num_envs: int, batch_size: int | None
) -> VectorEnv:
    """Makes ale-py's vector environment, which steps in C++ threads.

    Args:
        spec: The registered environment.
        settings: As atari_protocols.settings() returns them.
        num_envs: Number of sub-environments.
        batch_size: Sub-environments that each recv() waits for; None waits for all.
    """
    # The replay clips rewards, so that logged returns are true scores.
    arguments: dict[str, Any] = {**settings, "reward_clipping": False}
    envs: Any = gymnasium.make_vec(
        spec, num_envs, "vector_entry_point", batch_size=batch_size or num_envs, **arguments
    )
    # ale-py does not keep this setting, and life_loss.py reads it.
    envs.unwrapped.life_loss_info = settings["life_loss_info"]
    return envs
