"""A fused learner of two threads, trained for a while."""

import threading
from functools import partial

import torch

from fastdqn.learning.fused_learner import FusedStep
from helpers.fused import make_batches, make_learner

TWO = partial(FusedStep, threads=2)


def run_start(work, *args):
    """As start_spare(), with normal priority, so that it also runs on a busy machine."""
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def trained(make_step, size=96, updates=60, before=None, batches=None, **options):
    """Returns a learner after some updates of one refilled batch, and its priorities.

    before  called with learner and number of each update
    """
    staged, *others = make_batches(8, size=size, **(batches or {}))
    learner = make_learner(make_step, clip=1.0, **options)
    priorities = []
    for i in range(updates):
        for tensor, fresh in zip(staged, others[i % len(others)], strict=True):
            if tensor is not None:
                tensor.copy_(fresh)
        if before is not None:
            before(learner, i)
        priorities.append(learner.update(staged).clone())
    return learner, torch.stack(priorities)
