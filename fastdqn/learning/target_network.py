"""Target network updates: hard copies and Polyak averaging."""

from fractions import Fraction
from typing import Protocol

from fastdqn.learning.flat_parameters import FlatParameters


class TargetUpdate(Protocol):
    """Creates and updates the target network.

    Attributes:
        within: Whether every update moves the target by the same factor. step() then does it, as a
            part of the captured update. Otherwise follow() does it between updates.
    """

    within: bool

    def target_of(self, online: FlatParameters) -> FlatParameters:
        """Returns the target network, initially equal to online."""
        ...

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        """Does the part of a target update that belongs to every gradient step."""
        ...

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        """Updates the target after update number `updates`, counted from 1, if it is due.

        Returns whether it was due.
        """
        ...

    def together(self, updates: int, most: int) -> int:
        """Returns how many updates, at most `most`, may follow before the next call of follow()."""
        ...


class NoTarget:
    """No separate target network: the online network evaluates itself."""

    within = False

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_alias()

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        """Does nothing."""

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        return False

    def together(self, updates: int, most: int) -> int:
        return most


class HardCopy:
    """Hard update every `every` updates; with 5/2, after updates 3, 5, 8 and 10."""

    within = False

    def __init__(self, every: Fraction):
        self.every = _positive(every)

    def target_of(self, online: FlatParameters) -> FlatParameters:
        return online.frozen_twin()

    def step(self, online: FlatParameters, target: FlatParameters) -> None:
        """Does nothing: follow() copies between updates."""

    def follow(self, updates: int, online: FlatParameters, target: FlatParameters) -> bool:
        due = _due(updates, self.every) > 0
        if due:
            target.copy_from(online)
        return due

    def together(self, updates: int, most: int) -> int:
        return _until_due(updates, self.every, most)


class PolyakAverage:
    """Polyak averaging: target += tau * (online - target), once every `every` updates.

    If `every` is below 1, several averaging steps are due after each update. k of them are equal to
    one with the factor 1 - (1 - tau)^k. If 1 / every is an integer, k is constant (`within`).
    Otherwise k is 1 / every, rounded up or down. Buffers are copied, not averaged.

    Source: Lillicrap et al. 2016 (arXiv 1509.02971), Algorithm 1.
    """

    def __init__(self, every: Fraction, tau: float):
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"tau is {tau}, must be in (0, 1]")
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
        """Returns the factor of one averaging step that equals `moves` steps with tau."""
        return self.tau if moves == 1 else 1.0 - (1.0 - self.tau) ** moves

    def _move(self, online: FlatParameters, target: FlatParameters, share: float) -> None:
        target.weights.lerp_(online.weights, share)
        target.buffers.copy_(online.buffers)


def _due(updates: int, every: Fraction) -> int:
    """Returns the target updates due after update number `updates`, not after the one before."""
    # Integers, since dividing Fractions takes as long as a small update.
    per, unit = every.numerator, every.denominator
    return updates * unit // per - (updates - 1) * unit // per


def _until_due(updates: int, every: Fraction, most: int) -> int:
    per, unit = every.numerator, every.denominator
    # The next one is due after update number ceil(every * (copies so far + 1)).
    following = -(-(updates * unit // per + 1) * per // unit)
    return max(1, min(most, following - updates))


def _positive(every: Fraction) -> Fraction:
    if every <= 0:
        raise ValueError(f"every is {every}, must be positive")
    return every
