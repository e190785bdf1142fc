"""SecondHalf: the memory of a second thread that computes half of each batch, and its hiring."""

import weakref

import numpy as np
import torch

from fastdqn.learning import fused_kernel_two_threads
from fastdqn.system.idle_thread import start_spare


class SecondHalf:
    """What update_in_two() takes beside fused.update()'s arguments, in .shared.

    constants  layers, target_weights
    inputs     of a batch, choices  as fused.update() takes them
    scratches  two of FusedStep's

    A thread, once there is one, goes when this does: it knows arrays alone.
    """

    def __init__(
        self, constants: tuple, inputs: tuple, choices: tuple, scratches: list[list[np.ndarray]]
    ):
        (obs, action, _, _, next_obs, *_), (_, target_weights) = inputs, constants
        (*passes, sums), (*_, more_sums) = scratches
        mail_weights, own_weights = (_on_cache_lines(target_weights) for _ in range(2))
        mail_obs, mail_next_obs, lent_sums = map(_on_cache_lines, (obs, next_obs, sums))
        priority, taken = np.zeros((2, len(action)), np.float32)
        words = np.empty(fused_kernel_two_threads.WORDS, np.int64)
        lent = priority, taken, lent_sums, np.zeros(1)
        self.shared = (words, mail_weights, mail_obs, mail_next_obs, more_sums, *lent)
        self._own = (
            *choices, words, mail_weights, own_weights, *passes, sums, *lent,
            fused_kernel_two_threads.PATIENCE
        )  # fmt: skip
        self._constants = constants
        self.batch_size, self.is_hired = len(action), False
        words[fused_kernel_two_threads.WANTED] = fused_kernel_two_threads.STOP
        fused_kernel_two_threads.lend(
            *self._arguments(inputs)
        )  # comes back at once, and is compiled
        fused_kernel_two_threads.begin(words)

    def hire(self, inputs: tuple) -> None:
        """Start the thread for a batch's arrays, where the system has one that hinders nobody."""
        self.is_hired = True
        # Before the thread: if the process ends meanwhile, it must hear of it.
        weakref.finalize(self, fused_kernel_two_threads.dismiss, self.shared[0])
        start_spare(fused_kernel_two_threads.lend, *self._arguments(inputs))

    def _arguments(self, inputs: tuple) -> tuple:
        _, action, reward, discount, _, weight, next_mask = inputs
        mail_obs, mail_next_obs = self.shared[2:4]
        return (
            *self._constants, mail_obs, action, reward, discount, mail_next_obs, weight, next_mask,
            *self._own,
        )  # fmt: skip


def _on_cache_lines(like: np.ndarray) -> np.ndarray:
    """Zeros of its shape, from the beginning of a cache line on: torch's memory begins there."""
    return torch.zeros(like.shape).numpy()
