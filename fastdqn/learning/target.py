"""When and how the target network follows the online one."""

from fractions import Fraction
from typing import Protocol

from fastdqn.learning.flat import FlatParameters


class TargetFollower(Protocol):
    def target_of(self, online: FlatParameters) -> FlatParameters:
        """The network that evaluates: made once, frozen, equal to online at first."""
        ...

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        """Bring the target along after update number `updates`, counted from 1."""
        ...


class NoTarget:
    """The online network evaluates itself, as in Q-learning with no copy kept back."""

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_alias()

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        return False


class HardCopy:
    """Copies every `every` updates; a fraction is exact: 5/2 copies after 3, 5, 8, 10 updates."""

    def __init__(self, every: Fraction):
        self.every = _positive(every)

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_twin()

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        due = _is_due(updates, self.every)
        if due:
            target.copy_from(online)
        return due


class PolyakAverage:
    """target += tau * (online - target) after every `every`-th update.

    Lillicrap et al. 2016 (arXiv 1509.02971), Algorithm 1. Buffers are copied, not averaged.
    """

    def __init__(self, every: Fraction, tau: float):
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"tau is {tau}: it must be in (0, 1]")
        self.every, self.tau = _positive(every), tau

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_twin()

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        due = _is_due(updates, self.every)
        if due:
            target.weights.lerp_(online.weights, self.tau)
            target.buffers.copy_(online.buffers)
        return due


def _is_due(updates: int, every: Fraction) -> bool:
    # Whole numbers: a division of Fractions costs as much as a small update's arithmetic does.
    per, unit = every.numerator, every.denominator
    return updates * unit // per != (updates - 1) * unit // per


def _positive(every: Fraction) -> Fraction:
    if every <= 0:
        raise ValueError(f"every is {every}: a target update needs a positive interval")
    return every
