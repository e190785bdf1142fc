"""Atari protocols: every setting that a published score was measured with."""

from typing import Any

# What both have: a 210 x 160 screen is made grey and 84 x 84, of two frames the brighter pixels,
# four of those make an observation; half an hour of play, 60 frames a second, ends a game. No
# button is pressed for the agent at a game's start.
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
# By the names of ale-py's AtariVectorEnv. Of two the meaning is ours: reward_clipping clips what
# the learner sees to -1 and 1, the record keeps true scores; life_loss_info ends the value where a
# life ends, in training alone, and the game goes on.
PROTOCOLS: dict[str, dict[str, Any]] = {
    # Mnih et al. 2015 (doi 10.1038/nature14236), Methods and extended data table 1; the limit of
    # half an hour is of later papers, theirs was five minutes of evaluation.
    "dqn2015": {
        **_COMMON,
        "noop_max": 30,
        "repeat_action_probability": 0.0,
        "life_loss_info": True,
        "full_action_space": False,
    },
    # Machado et al. 2018 (arXiv 1709.06009), section 4 and table 4: chance comes from actions that
    # stick, games end where they end, and every game has all 18 actions.
    "machado2018": {
        **_COMMON,
        "noop_max": 0,
        "repeat_action_probability": 0.25,
        "life_loss_info": False,
        "full_action_space": True,
    },
}
# What Gymnasium's v5 ids stand for.
DEFAULT = "machado2018"
# Arguments of AtariVectorEnv that would change what the rest of the program relies on.
_TAKEN = {
    "episodic_life": "it restarts the game at each life: life_loss_info=True ends only the value",
    "batch_size": "give --env-batch-size",
    "num_envs": "give --num-envs",
    "autoreset_mode": "it is NextStep here",
    "game": "the id names the game",
    "continuous": "DQN needs Discrete actions",
}
# Least and most of a setting: of some others C++ plays games of no frame, or takes all memory, and
# says nothing. Ours.
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
    """Whether an id is one of ale-py's that come with a vector environment: ALE/Pong-v5."""
    return env_id.rpartition(":")[2].startswith("ALE/")


def settings(protocol: str, own: dict[str, Any]) -> dict[str, Any]:
    """Every setting of a protocol, those of the user's own in place of its.

    protocol  auto, or a name in PROTOCOLS
    Raises ValueError where there is no such protocol, or a setting is not the user's to make.
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
    """What a setting must be, where it is not: its type is that of the protocols."""
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
    """auto as the name that it stands for."""
    return DEFAULT if protocol == "auto" else protocol


def steps_of_game(settings: dict[str, Any]) -> int:
    """The limit of a game in steps: each is frameskip frames."""
    return -(-settings["max_num_frames_per_episode"] // settings["frameskip"])


def reward_bound(protocol: str, settings: dict[str, Any]) -> float:
    """Bound of the rewards that the learner sees, of a resolved protocol; inf: none."""
    return 1.0 if protocol in PROTOCOLS and settings["reward_clipping"] else float("inf")


def frames_a_step(protocol: str, settings: dict[str, Any]) -> int | None:
    """Emulator frames of a step, of a resolved protocol; None where there is none."""
    return settings["frameskip"] if protocol in PROTOCOLS else None


def describe(protocol: str, settings: dict[str, Any]) -> str:
    """All settings in one line."""
    return f"atari protocol {protocol}: " + ", ".join(f"{k} {v}" for k, v in settings.items())
