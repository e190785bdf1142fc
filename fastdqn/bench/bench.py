"""Benchmarks of a run: each component alone, then training, then the bottleneck."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from fastdqn.bench.bottleneck import sentence
from fastdqn.bench.env_speed import LANES, measure_envs
from fastdqn.bench.learner_speed import BATCH_SIZES, measure_learner, measure_upload
from fastdqn.bench.machine_info import describe_machine, torch_threads
from fastdqn.bench.policy_speed import lanes_of_a_call, measure_acting
from fastdqn.bench.repeats import Clock, Effort
from fastdqn.bench.replay_speed import measure_replay
from fastdqn.bench.results import Figure, phase_table, table
from fastdqn.bench.sb3_peer import measure_by_turns, note, sb3_peer
from fastdqn.bench.technique_costs import measure_switches
from fastdqn.bench.training_speed import Trained, measure_training
from fastdqn.builders.devices import arithmetic
from fastdqn.builders.preflight import preview, recipe
from fastdqn.config.derived_facts import residual_phases
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.files.atomic_write import to_json, write_whole

Show = Callable[[RenderableType], None]
PARTS = ("env", "act", "replay", "learner", "train", "all")
# Numbers of environments for acting, besides that of the run.
_ACT_LANES = (1, 64, 512)


def bench(
    part: str,
    config: Config,
    effort: Effort,
    show: Show,
    clock: Clock = time.perf_counter,
    *,
    command: str = "",
    against: str | None = None,
) -> list[dict[str, Any]]:
    """Measures a component of a run, or all of them. Results are shown as they come.

    Args:
        part: One of PARTS.
        config: Options that have passed check().
        effort: Duration of each measurement.
        show: Prints a table or a line.
        clock: Returns seconds.
        command: Command line, for the header.
        against: sb3, to compare training with Stable-Baselines3, or None.

    Returns:
        Rows for JSON: a header, a row for each measurement, and the bottleneck if training was
        measured.

    Raises:
        EnvError: The environment fails.
        PeerError: Stable-Baselines3 fails.
    """
    setup = preview(config)
    config, facts = setup.config, setup.facts
    with torch_threads(config.threads), ExitStack() as ended:
        ended.enter_context(arithmetic(config))
        run_peer = None
        if against is not None:  # first, so that it fails before anything is measured
            run_peer = ended.enter_context(sb3_peer(config, longer(effort), clock))
        rows = [header(config, effort, command)]
        figures: list[Figure] = []
        # Costs of techniques are not part of this run: only `bench learner` measures them.
        names = {"all": PARTS[:-2], "learner": ("learner", "switches")}.get(part, (part,))
        for name in names:
            if name != "train":
                own = list(_MEASURES[name](config, facts, effort, clock))
                show(table(f"{name} alone", own))
                figures += own
        rows += [figure.row() for figure in figures]
        if part in ("train", "all"):
            rows += _train(config, effort, show, clock, figures)
        if run_peer is not None:
            rows += _by_turns(config, effort, show, clock, run_peer, note(config, facts))
        return rows


def _by_turns(config, effort: Effort, show: Show, clock: Clock, run_peer, differs: str):
    ours, theirs = measure_by_turns(config, longer(effort), run_peer, clock)
    show(table("train, in turns", [ours, theirs]))
    ratio = f"fastdqn makes {ours.rate.median / theirs.rate.median:.2f} times the steps/s of sb3"
    show(f"{differs}\n{ratio}")
    return [ours.row(), theirs.row(), {"sentence": ratio, "note": differs}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as JSON Lines, atomically. Raises WriteError."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows))


def longer(effort: Effort) -> Effort:
    """Returns an effort for training loops, which vary more than single components."""
    return replace(effort, seconds=4 * effort.seconds, burn_in=4 * effort.burn_in)


def header(config: Config, effort: Effort, command: str) -> dict[str, Any]:
    """Returns the header: options, effort and machine."""
    measured = {
        "env_id": config.env_id, "preset": config.preset,
        "num_envs": config.num_envs, "batch_size": config.batch_size,
        "train_frequency": str(config.train_frequency), "hidden_sizes": config.hidden_sizes,
        "double": config.double, "dueling": config.dueling, "n_steps": config.n_steps,
        "buffer_size": config.buffer_size, "learner": config.learner, "capture": config.capture,
    }  # fmt: skip
    how = {"command": command, "seconds": effort.seconds, "repeats": effort.repeats}
    return {"header": {**how, **measured, **describe_machine(config.device, config.threads)}}


def _env(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    lanes = list(dict.fromkeys((config.num_envs, *LANES)))
    yield from measure_envs(
        recipe(config), lanes, effort, clock, config.env_batch_size, config.max_step_seconds
    )


def _act(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    yield from measure_acting(config, facts, effort, clock)
    partial = lanes_of_a_call(config) < config.num_envs
    for num_envs in dict.fromkeys(_ACT_LANES):
        if partial or num_envs != config.num_envs:
            as_many = config.replace(num_envs=num_envs, env_batch_size=None)
            yield from measure_acting(as_many, facts, effort, clock)


def _replay(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    yield from measure_replay(config, facts, effort, clock)


def _switches(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    yield from measure_switches(config, facts, effort, clock)


def _learner(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    for learner, capture in dict.fromkeys((("torch", "eager"), (config.learner, config.capture))):
        together = config.updates_per_launch if capture == config.capture else 1
        changed = config.replace(learner=learner, capture=capture, updates_per_launch=together)
        yield from measure_learner(changed, facts, BATCH_SIZES, effort, clock)
    upload = measure_upload(config, facts, effort, clock)
    if upload is not None:
        yield upload


_MEASURES: dict[str, Callable[[Config, EnvFacts, Effort, Clock], Iterator[Figure]]] = {
    "env": _env,
    "act": _act,
    "replay": _replay,
    "learner": _learner,
    "switches": _switches,
}


def _train(
    config: Config, effort: Effort, show: Show, clock: Clock, figures: list[Figure]
) -> list[dict[str, Any]]:
    """Measures training by both clocks and names the bottleneck. Returns rows."""
    rows = []
    plain = None
    for synchronised in (False, True):
        trained = measure_training(config, longer(effort), synchronised, clock)
        plain = plain or trained
        name = "synchronised" if synchronised else "plain"
        show(table(f"train, {name} clock", [trained.figure]))
        # The synchronized clock completes the phases of the device, but not asynchronous env steps.
        residual = [p for p in residual_phases(config) if p == "env" or not synchronised]
        title = f"phases by the {name} clock"
        show(phase_table(title, trained.phases, trained.steps, residual))
        show(_around(trained))
        rows.append(
            trained.figure.row()
            | {
                "phase_seconds": trained.phases,
                "seconds": trained.seconds,
                "updates": trained.updates,
                "startup_seconds": trained.startup_seconds,
                "warm_up_seconds": trained.warm_up_seconds,
                "warm_up_steps": trained.warm_up_steps,
            }
        )
    assert plain is not None
    bottleneck = sentence(config, plain.phases, plain.steps, figures)
    show(bottleneck)
    return [*rows, {"sentence": bottleneck}]


def _around(trained: Trained) -> str:
    """Describes start-up and warm-up times, and the share of time that phases cover."""
    before = ", ".join(f"{name} {took:.2f} s" for name, took in trained.startup_seconds.items())
    covered = sum(trained.phases.values()) / trained.seconds
    return (
        f"start-up: {before}, warm-up {trained.warm_up_seconds:.2f} s; the phases add up to "
        f"{100 * covered:.2f} % of the elapsed {trained.seconds:.2f} s"
    )
