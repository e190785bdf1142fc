"""Marks: named ranges of the kernels and parts of updates and policy calls, for a profiler.

Nothing imports this module in a run without a profiler, so that marks cost nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastdqn.learning.autograd import AutogradSteps
from fastdqn.learning.graph_capture import Graphed
from fastdqn.learning.learner import Learner
from fastdqn.learning.policy import Policy

# Returns a context manager that marks a range with a name.
Mark = Callable[[str], AbstractContextManager[Any]]

FUSED_UPDATE, FUSED_POLICY, EXPLORE = "fused update", "fused policy", "explore"
# Compiled kernels, which a profiler of torch operators does not see.
KERNELS = (FUSED_UPDATE, FUSED_POLICY, EXPLORE)
# Parts of an update and of a policy call, which contain operators.
PARTS = (
    "draws", "update", "forward", "backward", "optimizer", "target copy", "graph replay",
    "greedy actions",
)  # fmt: skip


def mark_learner(learner: Learner, mark: Mark) -> None:
    """Marks forward, backward, optimizer and target copies of a learner, or its fused kernel."""
    steps: Any = learner._step
    if isinstance(steps, AutogradSteps):
        mark_method(steps, "_loss", "forward", mark)
        mark_method(steps, "_backward", "backward", mark)
        mark_method(steps, "_descend", "optimizer", mark)
    else:
        mark_method(learner, "_step", FUSED_UPDATE, mark)
    if isinstance(learner._run, Graphed):
        mark_method(learner, "_run", "graph replay", mark)
    if learner.draws.is_asked:
        mark_method(learner.draws, "refresh", "draws", mark)
    mark_method(learner, "_update", "update", mark)
    _mark_copies(learner, mark)


def mark_policy(policy: Policy, mark: Mark) -> None:
    """Marks the greedy and the exploratory actions of a policy."""
    fused = policy._choose is not None and type(policy._choose).__name__.startswith("Fused")
    mark_method(policy, "_best", FUSED_POLICY if fused else "greedy actions", mark)
    mark_method(policy, "_explore", EXPLORE, mark)


def _mark_copies(learner: Learner, mark: Mark) -> None:
    """Marks target updates, without the calls that find none due."""
    update: Any = learner.target_update
    follow, step = update.follow, update.step

    def marked(updates: int, *networks: Any) -> bool:
        if update.together(updates - 1, 2) > 1:  # none is due after this update
            return follow(updates, *networks)
        with mark("target copy"):
            return follow(updates, *networks)

    def marked_step(*networks: Any) -> None:
        with mark("target copy"):
            step(*networks)

    update.follow = marked
    if update.within:
        update.step = marked_step


def mark_method(owner: Any, name: str, label: str, mark: Mark) -> None:
    """Replaces a method of an object by the same within a range."""
    method = getattr(owner, name)

    def marked(*args: Any) -> Any:
        with mark(label):
            return method(*args)

    setattr(owner, name, marked)
