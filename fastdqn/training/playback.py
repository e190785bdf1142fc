"""show(): plays greedy episodes and yields a frame with values at each step."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastdqn.envs import Screen


class Moment(NamedTuple):
    """The state of an episode between two steps.

    Attributes:
        picture: uint8[H, W, 3].
        values: float32[A], -inf for forbidden actions; at the end those of the step before.
        episode: Number of the episode, from 0.
        steps: Steps so far.
        action: The next action, None at the end.
        total: Return so far.
        ending: terminated, truncated or cut (by the step limit); "" before the end.
    """

    picture: np.ndarray
    values: np.ndarray
    episode: int
    steps: int
    action: int | None
    total: float
    ending: str = ""


def show(
    values_of: Callable[..., np.ndarray], screen: Screen, episodes: int, max_steps: int, seed: int
) -> Iterator[Moment]:
    """Plays episodes to their end or to max_steps; the last moment of each has an ending.

    Args:
        values_of: Maps obs [1, *], and mask [1, A] if there are masks, to expected returns [1, A].
        screen: The environment.
        episodes: Number of episodes.
        max_steps: Step limit of an episode.
        seed: Seed of the first episode; later ones count up.
    """
    for episode in range(episodes):
        yield from _show_one(values_of, screen, episode, max_steps, seed + episode)


def _show_one(
    values_of: Callable[..., np.ndarray], screen: Screen, episode: int, max_steps: int, seed: int
) -> Iterator[Moment]:
    stream, total, steps, ending = screen.stream, 0.0, 0, ""
    screen.start(seed)
    values = np.empty(0, np.float32)
    while not ending:
        inputs = (stream.obs,) if stream.mask is None else (stream.obs, stream.mask)
        values = values_of(*inputs)[0]
        action = int(values.argmax())
        yield Moment(screen.picture(), values, episode, steps, action, total)
        step = screen.step(action)
        total += float(step.reward.sum())
        steps += 1
        if len(step.ended_lanes):
            ending = "terminated" if step.terminated.any() else "truncated"
        elif steps >= max_steps:
            ending = "cut"
    yield Moment(screen.picture(), values, episode, steps, None, total, ending)
