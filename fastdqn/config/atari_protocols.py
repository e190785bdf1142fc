"""Atari protocols: the emulator and preprocessing settings behind published scores."""

from typing import Any

# Common to both: grayscale 84 x 84 screens, the pixelwise maximum of two frames, four screens per
# observation, and half an hour of play at 60 frames per second. FIRE is not pressed at the start.
_COMMON: dict[str, Any] = {
    "frameskip": 4,
    "maxpool": True,
    "stack_num": 4,
    "grayscale": True,
    "img_height": 84,
    "img_width": 84,
    "max_num_frames_per_episode": 108_000,
    "use_fire_reset": False,
    "reward_clipping": True,
}
# Names are those of ale-py's AtariVectorEnv, with two differences. reward_clipping clips the
# learner's rewards to [-1, 1], while logged scores stay unclipped. life_loss_info sets the
# bootstrap value to 0 at a lost life during training, without resetting the game.
PROTOCOLS: dict[str, dict[str, Any]] = {
    # Mnih et al. 2015 (doi 10.1038/nature14236), Methods and extended data table 1. The limit of
    # half an hour is from later papers: theirs was five minutes, in evaluation.
    "dqn2015": {
        **_COMMON,
        "noop_max": 30,
        "repeat_action_probability": 0.0,
        "life_loss_info": True,
        "full_action_space": False,
    },
    # Machado et al. 2018 (arXiv 1709.06009), section 4 and table 4: sticky actions, no episode end
    # at a lost life, and all 18 actions in every game.
    "machado2018": {
        **_COMMON,
        "noop_max": 0,
        "repeat_action_probability": 0.25,
        "life_loss_info": False,
        "full_action_space": True,
    },
}
# The protocol of Gymnasium's v5 ids.
DEFAULT = "machado2018"
# Arguments of AtariVectorEnv that are set here, with the option to use in their place.
_TAKEN = {
    "episodic_life": "it resets the game at each lost life; use life_loss_info=True",
    "batch_size": "use --env-batch-size",
    "num_envs": "use --num-envs",
    "autoreset_mode": "it is always NEXT_STEP",
    "game": "the id names the game",
    "continuous": "DQN needs Discrete actions",
}
# Smallest and largest value of a setting. Beyond them ale-py plays games of no frame, or allocates
# all memory, without an error.
_LIMITS: dict[str, tuple[float, float]] = {
    "frameskip": (1, 1_000),
    "stack_num": (1, 1_000),
    "img_height": (1, 1_000),
    "img_width": (1, 1_000),
    "max_num_frames_per_episode": (1, (1 << 31) - 1),
    "noop_max": (0, 1_000_000),
    "repeat_action_probability": (0.0, 1.0),
    "num_threads": (0, 1_000),
}


def is_atari(env_id: str) -> bool:
    """Returns whether an id, such as ALE/Pong-v5, has ale-py's vector environment."""
    return env_id.rpartition(":")[2].startswith("ALE/")


def settings(protocol: str, own: dict[str, Any]) -> dict[str, Any]:
    """Returns every setting of a protocol, overridden by the user's.

    Args:
        protocol: auto, or a name in PROTOCOLS.
        own: The user's settings, from env_kwargs.

    Raises:
        ValueError: The protocol does not exist, or a setting is reserved or beyond its limits.
    """
    name = resolved(protocol)
    if name not in PROTOCOLS:
        raise ValueError(
            f"atari_protocol is {protocol}: these environments need one of {', '.join(PROTOCOLS)}"
        )
    for taken in own.keys() & _TAKEN.keys():
        raise ValueError(f"env_kwargs cannot set {taken} here: {_TAKEN[taken]}")
    for setting, value in own.items():
        if line := _beyond(setting, value):
            raise ValueError(f"{setting} in env_kwargs is {str(value)[:60]!r}: it must be {line}")
    return {**PROTOCOLS[name], **own}


def _beyond(name: str, value: Any) -> str | None:
    """Returns what a setting must be if its value is not that, else None."""
    if isinstance(PROTOCOLS[DEFAULT].get(name), bool):
        return None if isinstance(value, bool) else "True or False"
    if name not in _LIMITS:
        return None
    low, high = _LIMITS[name]
    kinds, kind = (int, "a whole number") if isinstance(low, int) else (int | float, "a number")
    if isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high:
        return None
    return f"{kind} from {low:,} to {high:,}"


def resolved(protocol: str) -> str:
    """Returns a protocol's name, with auto resolved."""
    return DEFAULT if protocol == "auto" else protocol


def steps_of_game(settings: dict[str, Any]) -> int:
    """Returns the time limit of a game in steps of frameskip frames."""
    return -(-settings["max_num_frames_per_episode"] // settings["frameskip"])


def reward_bound(protocol: str, settings: dict[str, Any]) -> float:
    """Returns the bound of the learner's rewards under a resolved protocol. inf: no bound."""
    return 1.0 if protocol in PROTOCOLS and settings["reward_clipping"] else float("inf")


def frames_a_step(protocol: str, settings: dict[str, Any]) -> int | None:
    """Returns emulator frames per step under a resolved protocol, or None without one."""
    return settings["frameskip"] if protocol in PROTOCOLS else None


def describe(protocol: str, settings: dict[str, Any]) -> str:
    """Returns all settings as one line."""
    return f"atari protocol {protocol}: " + ", ".join(f"{k} {v}" for k, v in settings.items())
