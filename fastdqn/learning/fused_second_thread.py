"""SecondThread: memory and start of the thread that computes the second half of each batch."""

import weakref

import numpy as np
import torch

from fastdqn.learning import fused_kernel_two_threads
from fastdqn.system.idle_thread import start_spare


class SecondThread:
    """Arguments of update_in_two() in addition to those of update(), in the attribute shared.

    The thread, once started, ends when this object is deleted, since it refers to arrays only.

    Args:
        constants: layers and target_weights.
        inputs: Arrays of a batch, as fused_kernel.update() takes them.
        choices: Constants, as fused_kernel.update() takes them.
        scratches: Two sets of scratch memory.
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
        fused_kernel_two_threads.lend(*self._arguments(inputs))  # compiles, and returns at once
        fused_kernel_two_threads.begin(words)

    def hire(self, inputs: tuple) -> None:
        """Starts the thread for the arrays of a batch, if the system has an idle core."""
        self.is_hired = True
        # Registered before the thread starts, so that an exiting process always stops it.
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
    """Returns zeros of the same shape that start on a cache line, as torch's memory does."""
    return torch.zeros(like.shape).numpy()
