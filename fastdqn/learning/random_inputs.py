"""Draws: random inputs of forward passes, drawn beforehand to buffers that stay in place.

A compiled pass cannot use generators, and two learners must agree on equal numbers. So noise and
quantile fractions are inputs of a pass.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastdqn.learning.batch_staging import generator_state, load_generator
from fastdqn.state_dict import State


class Draw(NamedTuple):
    """Random inputs of one forward pass.

    Attributes:
        noise: float32[1 or B, D], factors of all noisy layers; None uses the mean weights.
        fractions: float32[B, M] in [0, 1), quantile fractions; None uses evenly spaced ones.
    """

    noise: Tensor | None = None
    fractions: Tensor | None = None


MEANS = Draw()  # no random inputs, as for a greedy policy


class Passes(NamedTuple):
    """Random inputs of the forward passes that an update may need."""

    online_obs: Draw = MEANS
    target_next: Draw = MEANS
    online_next: Draw = MEANS
    target_obs: Draw = MEANS


NO_INPUTS = Passes()  # of an update without noise and fractions


class Draws:
    """Random inputs of every update, from one generator.

    Attributes:
        sets: Passes of each of the K updates, views of the buffers that refresh() fills.
        passes: Passes of the first update.

    Args:
        batch_size: B.
        noise_size: D, number of noise factors, shared by the whole batch.
        num_fractions: Number of fractions for each sample and pass, in the order of Passes.
        device: The learner's device.
        seed: Seed of the generator.
        together: K, the most updates in one call.
    """

    def __init__(
        self,
        batch_size: int,
        noise_size: int,
        num_fractions: tuple[int, int, int, int],
        device: torch.device,
        seed: int,
        together: int = 1,
    ):
        self._generator = torch.Generator(device).manual_seed(seed)
        self.is_asked = noise_size > 0 or any(num_fractions)
        self._noise = torch.zeros(together, 4, 1, noise_size, device=device)
        self._fractions = torch.zeros(together, batch_size * sum(num_fractions), device=device)
        self.sets = tuple(
            _passes(noise, fractions, batch_size, num_fractions)
            for noise, fractions in zip(self._noise, self._fractions, strict=True)
        )
        self.passes = self.sets[0]

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """What refresh() draws from."""
        return (self._generator,) if self.is_asked else ()

    def sets_of(self, count: int) -> tuple[Passes, ...]:
        """Returns the passes of the first `count` updates; raises ValueError if there are fewer."""
        if count > len(self.sets):
            raise ValueError(
                f"got {count} batches at once, but the learner has random inputs for "
                f"{len(self.sets)}: create its Draws with together={count}"
            )
        return self.sets[:count]

    def refresh(self, updates: int = 1) -> None:
        """Draws the inputs of the next updates; equal whether together or one by one."""
        if not self.is_asked:
            return
        for noise, fractions in zip(self._noise[:updates], self._fractions, strict=False):
            if noise.numel():
                fill_noise(noise, self._generator)
            if fractions.numel():
                fractions.uniform_(generator=self._generator)

    def state(self) -> State:
        return {"generator": generator_state(self._generator)}

    def load_state(self, state: State) -> None:
        load_generator(state, "generator", self._generator)


def blank_passes(
    batch_size: int, noise_size: int, num_fractions: tuple[int, int, int, int], device: torch.device
) -> Passes:
    """Returns random inputs of the right shapes, all 0, for a pass whose values do not matter."""
    noise = torch.zeros(4, 1, noise_size, device=device)
    fractions = torch.zeros(batch_size * sum(num_fractions), device=device)
    return _passes(noise, fractions, batch_size, num_fractions)


def _passes(
    noise: Tensor, fractions: Tensor, batch_size: int, counts: tuple[int, int, int, int]
) -> Passes:
    """Splits noise [4, 1, D] and fractions [sum of B * M] by pass."""
    split = fractions.split([batch_size * count for count in counts])
    return Passes(
        *(
            Draw(
                noise[i] if noise.numel() else None,
                split[i].view(batch_size, count) if count else None,
            )
            for i, count in enumerate(counts)
        )
    )


class NoNoise:
    """Uses mean weights, without noise."""

    def __call__(self, num_lanes: int) -> Draw:
        return MEANS

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        """Does nothing."""


class LaneNoise:
    """Draws separate noise for each sub-environment and call, so that they explore differently."""

    def __init__(self, noise_size: int, device: torch.device, seed: int):
        self._generator = torch.Generator(device).manual_seed(seed)
        self._noise = torch.zeros(0, noise_size, device=device)

    def __call__(self, num_lanes: int) -> Draw:
        if num_lanes > len(self._noise):
            self._noise = self._noise.new_zeros(num_lanes, self._noise.shape[1])
        noise = self._noise[:num_lanes]
        fill_noise(noise, self._generator)
        return Draw(noise)

    def state(self) -> State:
        return {"generator": generator_state(self._generator)}

    def load_state(self, state: State) -> None:
        load_generator(state, "generator", self._generator)


def fill_noise(noise: Tensor, generator: torch.Generator) -> None:
    """Fills noise in place with f(x) = sign(x) sqrt(|x|) of standard normal x.

    Source: Fortunato et al. 2018 (arXiv 1706.10295), section 3, factorized noise.
    """
    noise.normal_(generator=generator)
    torch.copysign(noise.abs().sqrt_(), noise, out=noise)
