"""Hooks: what a user may have called while a run trains."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastdqn.acting import Step
from fastdqn.engine.evaluate import Evaluation
from fastdqn.engine.progress import Progress
from fastdqn.replay import Batch


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
