"""Draws: the random numbers of forward passes, drawn beforehand into buffers that stay in place.

A captured or compiled update rejects generators, and two learners fed the same numbers must agree:
so noise and quantile fractions are inputs of a pass.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastdqn.learning.batch_staging import generator_state, load_generator
from fastdqn.state_dict import State


class Draw(NamedTuple):
    """The random inputs of one forward pass.

    noise      [1 or B, D] float32, factors of all noisy layers; None: their means
    fractions  [B, M] float32 in [0, 1), where quantiles are asked for; None: evenly spaced ones
    """

    noise: Tensor | None = None
    fractions: Tensor | None = None


MEANS = Draw()  # what a greedy policy goes by


class Passes(NamedTuple):
    """The passes that an update may make: each has numbers of its own."""

    online_obs: Draw = MEANS
    target_next: Draw = MEANS
    online_next: Draw = MEANS
    target_obs: Draw = MEANS


class Draws:
    """The random inputs of every update, from one generator.

    noise_size  D: numbers that the noisy layers take, one vector for the whole batch
    batch_size  B; num_fractions  how many a sample, for each pass in Passes' order
    together  K updates whose numbers are drawn at once

    sets    of each of the K updates, its passes: views of the buffers that refresh() fills
    passes  those of the first
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
        self._is_asked = noise_size > 0 or any(num_fractions)
        self._noise = torch.zeros(together, 4, 1, noise_size, device=device)
        self._fractions = torch.zeros(together, batch_size * sum(num_fractions), device=device)
        self.sets = tuple(
            _passes(noise, fractions, batch_size, num_fractions)
            for noise, fractions in zip(self._noise, self._fractions, strict=True)
        )
        self.passes = self.sets[0]

    def refresh(self, updates: int = 1) -> None:
        """Draw the numbers of the next updates, the same ones whether at once or one by one."""
        if not self._is_asked:
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


def _passes(
    noise: Tensor, fractions: Tensor, batch_size: int, counts: tuple[int, int, int, int]
) -> Passes:
    """noise [4, 1, D] and fractions [B * M in all] as each pass takes them."""
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
    """Acts by the means, as greedy policies do."""

    def __call__(self, num_lanes: int) -> Draw:
        return MEANS

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        """There is nothing to load."""


class LaneNoise:
    """Noise of its own for each lane and each call: what makes lanes explore apart."""

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
    """Fill in place with f(x) = sign(x) sqrt(|x|) of standard normal x.

    Fortunato et al. 2018 (arXiv 1706.10295), section 3, factorised noise.
    """
    noise.normal_(generator=generator)
    torch.copysign(noise.abs().sqrt_(), noise, out=noise)
