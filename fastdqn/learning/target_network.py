"""When and how the target network follows the online one."""

from fractions import Fraction
from typing import Protocol

from fastdqn.learning.flat_parameters import FlatParameters


class TargetFollower(Protocol):
    """Updates the target network.

    within  whether the target moves by the same share with every update: step() is a part of it
    then, and is recorded with it; else follow() moves it between updates
    """

    within: bool

    def target_of(self, online: FlatParameters) -> FlatParameters:
        """The network that evaluates: made once, frozen, equal to online at first."""
        ...

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        """What belongs to every update, and reads no count of them."""
        ...

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        """Bring the target along after update number `updates`, counted from 1, where step() does
        not."""
        ...

    def together(self, updates: int, most: int) -> int:
        """Updates, at most `most`, that follow update number `updates` with nothing for follow()
        to do before the last of them."""
        ...


class NoTarget:
    """The online network evaluates itself, as in Q-learning with no copy kept back."""

    within = False

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_alias()

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        """There is nothing to move."""

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        return False

    def together(self, updates: int, most: int) -> int:
        return most


class HardCopy:
    """Copies every `every` updates; a fraction is exact: 5/2 copies after 3, 5, 8, 10 updates."""

    within = False

    def __init__(self, every: Fraction):
        self.every = _positive(every)

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_twin()

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        """A copy belongs between updates."""

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        due = _due(updates, self.every) > 0
        if due:
            target.copy_from(online)
        return due

    def together(self, updates: int, most: int) -> int:
        return _until_due(updates, self.every, most)


class PolyakAverage:
    """target += tau * (online - target) after every `every`-th update.

    Where `every` is below 1, several such moves fall due between two updates, and the online
    network stands still meanwhile: k of them are one by 1 - (1 - tau)^k. That share is the same
    for every update where 1 / every is whole (`within`); else it is 1/every rounded down or up.

    Lillicrap et al. 2016 (arXiv 1509.02971), Algorithm 1. Buffers are copied, not averaged.
    """

    def __init__(self, every: Fraction, tau: float):
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"tau is {tau}: it must be in (0, 1]")
        self.every, self.tau = _positive(every), tau
        self.within = every.numerator == 1
        self._share = self._share_of(every.denominator)

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_twin()

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        if self.within:
            self._move(online, target, self._share)

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        moves = 0 if self.within else _due(updates, self.every)
        if moves:
            self._move(online, target, self._share_of(moves))
        return moves > 0

    def together(self, updates: int, most: int) -> int:
        return most if self.within else _until_due(updates, self.every, most)

    def _share_of(self, moves: int) -> float:
        """Share of the way to the online weights that a number of moves by tau make together."""
        return self.tau if moves == 1 else 1.0 - (1.0 - self.tau) ** moves

    def _move(self, online: FlatParameters, target: FlatParameters, share: float) -> None:
        target.weights.lerp_(online.weights, share)
        target.buffers.copy_(online.buffers)


def _due(updates: int, every: Fraction) -> int:
    """Target updates that fall due after update number `updates` and not after the one before."""
    # Whole numbers: a division of Fractions costs as much as a small update's arithmetic does.
    per, unit = every.numerator, every.denominator
    return updates * unit // per - (updates - 1) * unit // per


def _until_due(updates: int, every: Fraction, most: int) -> int:
    per, unit = every.numerator, every.denominator
    # The next one is due after update number ceil(every * (copies so far + 1)).
    following = -(-(updates * unit // per + 1) * per // unit)
    return max(1, min(most, following - updates))


def _positive(every: Fraction) -> Fraction:
    if every <= 0:
        raise ValueError(f"every is {every}: a target update needs a positive interval")
    return every
