"""Showing: greedy episodes one after another, moment by moment, as someone would watch them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastdqn.envs import Screen


class Moment(NamedTuple):
    """What there is to see between two steps.

    picture  uint8 [H, W, 3];  values [A] float32, -inf where not allowed, as they were before the
    episode's end where it has ended
    episode, steps  counted from 0;  action  that is taken next, None at the end
    total    the return so far;  ending  terminated, truncated, cut, or "" while it goes on
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
    """Play episodes to their end, or to max_steps; the last moment of each is its ending.

    values_of  obs [1, *], and mask [1, A] where there are masks, to expected returns [1, A]
    seed       of the first episode; the next ones have the numbers after it
    Raises what EnvStream and Screen raise.
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
        told = (stream.obs,) if stream.mask is None else (stream.obs, stream.mask)
        values = values_of(*told)[0]
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
