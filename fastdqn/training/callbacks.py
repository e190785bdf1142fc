"""Hooks: what a user may have called while a run trains."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastdqn.envs import Step
from fastdqn.replay import Batch
from fastdqn.training.evaluation import Evaluation
from fastdqn.training.progress import Progress


class Hooks(NamedTuple):
    """Calls of the user's own; what they take is lent, and overwritten afterwards.

    on_step        (progress, Step) after each delivery; returning False ends the run
    on_update      (progress, device Batch, priorities [B] as a tensor) after each update; where
                   several were made at once, after the last of them, for one after another
    on_evaluation  (steps, kind, Evaluation) after each evaluation: eval, confirm or final
    """

    on_step: Callable[[Progress, Step], Any] | None = None
    on_update: Callable[[Progress, Batch, Any], Any] | None = None
    on_evaluation: Callable[[int, str, Evaluation], Any] | None = None
