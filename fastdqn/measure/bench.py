"""Bench: the parts of one's own run measured alone, then together, with a sentence at the end."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from fastdqn.acting import EnvFacts
from fastdqn.checks import recipe
from fastdqn.config import Config
from fastdqn.measure.acting import measure_acting
from fastdqn.measure.against import NOTE, measure_against_sb3
from fastdqn.measure.figures import Figure, phase_table, table
from fastdqn.measure.learning import BATCH_SIZES, measure_learner, measure_upload
from fastdqn.measure.machine import describe_machine
from fastdqn.measure.repeat import Clock, Effort
from fastdqn.measure.replaying import measure_replay
from fastdqn.measure.stepping import LANES, measure_envs
from fastdqn.measure.training import measure_training
from fastdqn.measure.verdict import sentence
from fastdqn.record.files import to_json, write_whole
from fastdqn.resolve import preview

PARTS = ("env", "act", "replay", "learner", "train", "all")
# Lanes that acting is measured with besides the run's own. Ours.
_ACT_LANES = (1, 64, 512)


def bench(
    part: str,
    config: Config,
    effort: Effort,
    show: Callable[[RenderableType], None],
    clock: Clock = time.perf_counter,
) -> list[dict[str, Any]]:
    """Measure a part, or all of them, of a run with these options; figures are shown as they come.

    config  must have passed check()
    returns  rows for JSON: a header, then a figure a row, then the sentence where there is one
    Raises EnvError where the environment fails.
    """
    config, facts = preview(config)
    assert config.threads is not None
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        rows = [header(config)]
        figures: list[Figure] = []
        for name in PARTS[:-2] if part == "all" else (part,):
            if name != "train":
                own = list(_MEASURES[name](config, facts, effort, clock))
                show(table(f"{name} alone", own))
                figures += own
        rows += [figure.row() for figure in figures]
        if part in ("train", "all"):
            rows += _train(config, effort, show, clock, figures)
        return rows
    finally:
        torch.set_num_threads(before)


def bench_against(
    config: Config,
    effort: Effort,
    show: Callable[[RenderableType], None],
    clock: Clock = time.perf_counter,
) -> list[dict[str, Any]]:
    """Train by turns with Stable-Baselines3; returns rows for JSON. Raises as bench() does."""
    config, _ = preview(config)
    assert config.threads is not None
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)  # for both alike
    try:
        ours, theirs = measure_against_sb3(config, longer(effort), clock)
    finally:
        torch.set_num_threads(before)
    show(table("train, in turns", [ours, theirs]))
    said = f"fastdqn makes {ours.rate.median / theirs.rate.median:.2f} times the steps/s of sb3"
    show(f"{NOTE}\n{said}")
    return [header(config), ours.row(), theirs.row(), {"sentence": said, "note": NOTE}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line, whole or not at all. Raises WriteError."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows))


def longer(effort: Effort) -> Effort:
    """For whole loops, which settle more slowly than their parts."""
    return replace(effort, seconds=4 * effort.seconds, burn_in=4 * effort.burn_in)


def header(config: Config) -> dict[str, Any]:
    """What was measured, and where."""
    measured = {
        "env_id": config.env_id, "preset": config.preset,
        "num_envs": config.num_envs, "batch_size": config.batch_size,
        "train_frequency": str(config.train_frequency), "hidden_sizes": config.hidden_sizes,
        "double": config.double, "dueling": config.dueling, "n_steps": config.n_steps,
        "buffer_size": config.buffer_size, "capture": config.capture,
    }  # fmt: skip
    return {"header": {**measured, **describe_machine(config.device)}}


def _env(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    lanes = list(dict.fromkeys((config.num_envs, *LANES)))
    yield from measure_envs(recipe(config), lanes, effort, clock)


def _act(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    for num_envs in dict.fromkeys((config.num_envs, *_ACT_LANES)):
        yield from measure_acting(config.replace(num_envs=num_envs), facts, effort, clock)


def _replay(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    yield from measure_replay(config, facts, effort, clock)


def _learner(config: Config, facts: EnvFacts, effort: Effort, clock: Clock) -> Iterator[Figure]:
    for capture in dict.fromkeys(("eager", config.capture)):
        as_captured = config.replace(capture=capture)
        yield from measure_learner(as_captured, facts, BATCH_SIZES, effort, clock)
    upload = measure_upload(config, facts, effort, clock)
    if upload is not None:
        yield upload


_MEASURES: dict[str, Callable[[Config, EnvFacts, Effort, Clock], Iterator[Figure]]] = {
    "env": _env,
    "act": _act,
    "replay": _replay,
    "learner": _learner,
}


def _train(config, effort: Effort, show, clock: Clock, figures: list[Figure]) -> list[dict]:
    """Both clocks, the sum check, and the sentence."""
    rows = []
    plain = None
    for synchronised in (False, True):
        trained = measure_training(config, longer(effort), synchronised, clock)
        plain = plain or trained
        name = "synchronised" if synchronised else "plain"
        show(table(f"train, {name} clock", [trained.figure]))
        show(phase_table(f"phases by the {name} clock", trained.phases, trained.steps))
        rows.append(
            trained.figure.row()
            | {
                "phase_seconds": trained.phases,
                "seconds": trained.seconds,
                "updates": trained.updates,
                "warm_up_seconds": trained.warm_up_seconds,
            }
        )
    assert plain is not None
    said = sentence(plain.phases, plain.steps, plain.figure.of["samples_per_step"], figures)
    show(said)
    return [*rows, {"sentence": said}]
