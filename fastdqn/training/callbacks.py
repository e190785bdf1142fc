"""Hooks: user callbacks of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastdqn.envs import Step
from fastdqn.replay import Batch
from fastdqn.training.evaluation import Evaluation
from fastdqn.training.progress import Progress


class Hooks(NamedTuple):
    """User callbacks. Their arguments are valid during the call only, and are reused later.

    Attributes:
        on_step: Called with (progress, Step) after each step; returning False ends the run.
        on_update: Called with (progress, device Batch, tensor of priorities [B]) after each update.
            If several updates are one call, it is called for each after the last of them.
        on_evaluation: Called with (steps, kind, Evaluation) after each evaluation. kind is eval,
            confirm, final or last.
    """

    on_step: Callable[[Progress, Step], Any] | None = None
    on_update: Callable[[Progress, Batch, Any], Any] | None = None
    on_evaluation: Callable[[int, str, Evaluation], Any] | None = None
