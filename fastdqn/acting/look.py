"""look(): what one environment turns out to be, before anything large is made for it."""

from dataclasses import replace

from gymnasium.spaces import Space
from gymnasium.vector import VectorEnv

from fastdqn.acting.backends import close_quietly
from fastdqn.acting.make import EnvRecipe
from fastdqn.acting.spaces import EnvFacts
from fastdqn.acting.stream import EnvStream


def look(recipe: EnvRecipe) -> EnvFacts:
    """What one lane of a recipe is, as look_closer() finds it."""
    return look_closer(recipe)[0]


def look_closer(recipe: EnvRecipe) -> tuple[EnvFacts, Space]:
    """Make one lane, reset it, and close it again: its facts, and the space of an observation.

    Raises ValueError, one line, where it cannot be made or trained on; EnvError where its reset
    fails.
    """
    in_process = recipe
    if recipe.vectorization == "async":
        in_process = replace(recipe, vectorization="sync")
    envs = in_process.make(1)
    try:
        stream = EnvStream(envs)
        stream.start(seed=0)
        facts = stream.facts._replace(
            has_masks=stream.mask is not None,
            max_episode_steps=in_process.max_episode_steps() or limit_of(envs),
        )
        return facts, envs.single_observation_space
    finally:
        close_quietly(envs)


def limit_of(envs: VectorEnv) -> int | None:
    """The time limit of ready environments, where their spec or a lane's wrapper tells."""
    lane = envs.envs[0] if getattr(envs, "envs", None) else envs  # pyright: ignore[reportAttributeAccessIssue]
    return getattr(lane.spec, "max_episode_steps", None)
