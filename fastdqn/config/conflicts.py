"""Combinations: which options contradict each other, and why."""

import types
from collections.abc import Iterator
from typing import Any

from fastdqn.config.atari_protocols import is_atari


def conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """(names of options, whether they contradict each other, the line that says so)."""
    yield from _budget_conflicts(c)
    yield from _lane_conflicts(c)
    yield from _exploration_conflicts(c)
    yield from _technique_conflicts(c)
    yield from _device_conflicts(c)


def _budget_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Of the run's length, the replay's size, and what has to happen within them."""
    steps, episodes = c.total_timesteps, c.total_episodes
    yield (
        "total_timesteps total_episodes",
        steps is None and episodes is None,
        "total_timesteps and total_episodes are both None: the run would never end; set one",
    )
    yield (
        "total_timesteps exploration_decay",
        steps is None
        and episodes is not None
        and c.exploration_decay is None
        and c.exploration == "schedule"
        and epsilons(c)[0] != epsilons(c)[1],
        "exploration_fraction is a share of total_timesteps, which is None: set it, or "
        "exploration_decay",
    )
    yield (
        "batch_size buffer_size",
        c.replay and c.batch_size > c.buffer_size,
        f"batch_size is {c.batch_size}, buffer_size only {c.buffer_size}: a batch must fit into "
        "the replay",
    )
    yield (
        "buffer_size num_envs",
        c.replay and c.buffer_size < 2 * c.num_envs,
        f"buffer_size is {c.buffer_size}: {c.num_envs} environments need at least "
        f"{2 * c.num_envs}, two rows each",
    )
    yield (
        "learning_starts total_timesteps train_frequency",
        steps is not None
        and c.train_frequency > 0
        and steps // c.train_frequency <= min(c.learning_starts, steps) // c.train_frequency,
        f"learning_starts is {c.learning_starts}, total_timesteps only {steps}: with an update "
        f"every {c.train_frequency} steps, nothing would be learned",
    )
    windows = c.num_envs * (c.n_steps - 1)
    yield (
        "learning_starts num_envs n_steps",
        c.learning_starts < windows,
        f"learning_starts is {c.learning_starts}: {c.num_envs} environments need {windows} steps "
        f"before every {c.n_steps}-step window can be complete",
    )
    first = windows + c.train_frequency - 1
    yield (
        "learning_starts num_envs n_steps train_frequency",
        not c.replay and c.learning_starts >= windows and c.learning_starts < first,
        f"learning_starts is {c.learning_starts}: without replay {first} steps are needed before "
        f"{c.train_frequency} windows of {c.n_steps} can have been completed for the first update",
    )
    yield (
        "stop_at_return eval_frequency",
        c.stop_at_return is not None and c.eval_frequency == 0,
        "stop_at_return is decided by evaluations, and eval_frequency is 0: set that, or "
        "stop_at_return to None",
    )


def _lane_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Of the environments that a call waits for."""
    yield (
        "env_batch_size num_envs",
        c.env_batch_size is not None and c.env_batch_size > c.num_envs,
        f"env_batch_size is {c.env_batch_size}, num_envs only {c.num_envs}: a call cannot wait for "
        "more environments than there are",
    )
    yield (
        "env_batch_size",
        c.env_batch_size not in (None, c.num_envs)
        and c.vectorization not in ("async", "envpool")
        and not (is_atari(c.env_id) and c.vectorization in ("auto", "native") and not c.wrapper),
        f"env_batch_size is {c.env_batch_size}: vectorization {c.vectorization} answers for all "
        f"{c.num_envs} environments together; async, envpool and Atari's may answer for some first",
    )
    yield (
        "restart_envs vectorization",
        c.restart_envs > 0 and c.vectorization != "async",
        f"restart_envs is {c.restart_envs}, which takes lanes with processes of their own: "
        "--vectorization async",
    )


def _exploration_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """Of the chance of a random action."""
    yield (
        "exploration_decay",
        c.exploration == "ladder" and c.exploration_decay is not None,
        "exploration ladder is constant, and exploration_decay is set: choose one of them",
    )
    yield (
        "num_envs",
        c.exploration == "ladder" and c.num_envs == 1,
        f"exploration ladder gives each environment an epsilon of its own, and num_envs is 1: a "
        f"single one would explore with {c.ladder_epsilon} to the end",
    )
    initial, final = epsilons(c)
    yield (
        "exploration_initial_eps exploration_final_eps",
        final > initial,
        f"exploration_final_eps is {final}, above exploration_initial_eps {initial}: exploration "
        "only falls",
    )


def _technique_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """The pairs of switches that cannot be combined, with the reason; all others can."""
    yield (
        "v_min v_max num_atoms",
        c.value == "categorical" and not _has_distinct_atoms(c),
        f"v_min is {c.v_min}, v_max {c.v_max}: the {c.num_atoms} atoms of categorical values lie "
        "between them, so v_min must be below, by what float32 can tell apart",
    )
    yield (
        "value munchausen",
        c.munchausen and c.value == "categorical",
        "munchausen adds an entropy to the bootstrap value, which atoms that stay where they are "
        "cannot take: use --value scalar, quantile or implicit-quantile",
    )
    yield (
        "value loss",
        c.loss == "huber" and c.value != "scalar",
        f"loss is huber, which is of scalar values, and {c.value} ones have a loss of their own: "
        "use --loss mse",
    )
    yield (
        "prioritized total_timesteps",
        c.prioritized and c.total_timesteps is None,
        "importance_exponent rises over total_timesteps, which is None: set it, or leave "
        "prioritized out",
    )
    yield (
        "replay prioritized",
        not c.replay and c.prioritized,
        "prioritized draws transitions again by their error, and without replay none comes again: "
        "leave one of --no-replay and --prioritized out",
    )
    yield (
        "replay train_frequency",
        not c.replay and c.train_frequency.denominator != 1,
        f"train_frequency is {c.train_frequency}: without replay an update learns from the "
        "transitions of the steps between two, so it must be a whole number, at least 1",
    )
    yield (
        "learner",
        c.learner == "fused" and bool(beyond_fused(c)),
        f"learner is fused, which does not cover {' or '.join(beyond_fused(c))}: leave it at auto, "
        "or that out",
    )


def _device_conflicts(c: types.SimpleNamespace) -> Iterator[tuple[str, bool, str]]:
    """What a CPU does not do, and what is launched at once."""
    yield (
        "device capture",
        c.device == "cpu" and c.capture == "graph",
        "capture is graph, which only CUDA devices have, and device is cpu: use --capture auto",
    )
    yield (
        "device precision",
        c.device == "cpu" and c.precision in ("tf32", "bf16"),
        f"precision is {c.precision}, which is for CUDA devices, and device is cpu, which would be "
        "slower with it: use --precision auto",
    )
    launch = c.updates_per_launch or 1
    yield (
        "updates_per_launch",
        launch & (launch - 1) != 0,
        f"updates_per_launch is {launch}: it must be a power of two, so that few graphs are needed "
        f"for what is left over; use {1 << (launch.bit_length() - 1)} or "
        f"{1 << launch.bit_length()}",
    )


def wants_cuda(c: Any) -> bool:
    """Whether an option asks for what only a CUDA device has."""
    return c.capture == "graph" or c.precision in ("tf32", "bf16")


def beyond_fused(c: Any) -> list[str]:
    """The options that are not covered by the fused learner, as they are set."""
    covered = {
        "value": ("scalar",), "capture": ("auto", "eager"), "device": ("auto", "cpu"),
        "torso": ("auto", "mlp"), "precision": ("auto", "float32"),
    }  # fmt: skip
    chosen = [
        f"{name} {getattr(c, name)}" for name in covered if getattr(c, name) not in covered[name]
    ]
    if c.dueling and c.dueling_gradient_scale != 1.0:
        chosen.append(f"dueling_gradient_scale {c.dueling_gradient_scale:g}")
    return chosen + [
        name for name in ("munchausen", "noisy", "normalize_observation") if getattr(c, name)
    ]


def _has_distinct_atoms(c: Any) -> bool:
    """Whether the atoms are different numbers of float32, and their distance has an inverse."""
    try:
        apart = (c.v_max - c.v_min) / (c.num_atoms - 1)
        return apart > 2.0**-22 * max(abs(c.v_min), abs(c.v_max), 1e-25)
    except (OverflowError, ZeroDivisionError):  # beyond their own limits, which is told elsewhere
        return False


def remarks(c: Any) -> list[str]:
    """What is worth saying about a combination that is fine: a line each."""
    lines = []
    if c.munchausen and c.double:
        lines.append("munchausen bootstraps from its own soft policy: it replaces double")
    if not c.replay:
        lines.append(
            f"without replay an update learns from the newest {c.train_frequency} transitions, "
            "each once, in order: batch_size is train_frequency, and buffer_size what that takes"
        )
    if not c.target_network:
        lines.append(
            "without a target network the online one evaluates: target_network_frequency and tau "
            "have no effect" + (", nor has double" if c.double and not c.munchausen else "")
        )
    epsilon = c.ladder_epsilon if c.exploration == "ladder" else max(epsilons(c))
    if c.exploration_zeta is not None and epsilon == 0:
        lines.append("epsilon is 0, so no random action is repeated: exploration_zeta does nothing")
    if c.noisy and epsilon > 0:
        lines.append(f"noise explores, and epsilon {epsilon:g} on top of it")
    initial, final = epsilons(c)
    falls = c.exploration == "schedule" and c.exploration_decay is None and initial > final
    fallen = round(c.exploration_fraction * (c.total_timesteps or 0))
    if falls and fallen <= c.learning_starts:
        lines.append(
            f"epsilon has fallen to {final:g} by step {fallen:,}, before learning starts at "
            f"{c.learning_starts:,}: --exploration-fraction {c.exploration_fraction:g} is a share "
            f"of {c.total_timesteps:,} steps"
        )
    return lines


def ends_with_evaluation(c: Any) -> bool:
    """Whether the weights are evaluated once more at the end: unless it is said, where they are
    evaluated while the run goes on."""
    return c.eval_frequency > 0 if c.final_evaluation is None else c.final_evaluation


def evaluates(c: Any) -> bool:
    """Whether a run evaluates at any time, and so needs environments for it."""
    return c.eval_frequency > 0 or ends_with_evaluation(c)


def sized(c: Any, stack: int) -> Any:
    """c with the batch_size and buffer_size that it takes to learn from each row once, if so.

    stack  rows that an observation lies in
    A batch is what comes between two updates. Kept are the turns of all lanes in which what waits
    came, each with an outcome of a lane and two beginnings: a life lost, and the game with it.
    """
    if c.replay:
        return c
    batch = int(c.train_frequency)
    turns = -(-(batch + c.num_envs * c.n_steps) // (c.env_batch_size or c.num_envs)) + 2
    return c.replace(batch_size=batch, buffer_size=c.num_envs * turns * (2 * stack + 1))


def epsilons(c: Any) -> tuple[float, float]:
    """Epsilon at first and in the end: None is 1 and 0.05, or none at all where noise explores."""
    final, initial = c.exploration_final_eps, c.exploration_initial_eps
    if final is None:
        final = 0.0 if c.noisy else 0.05
    if initial is None:
        initial = final if c.noisy else 1.0
    return initial, final
