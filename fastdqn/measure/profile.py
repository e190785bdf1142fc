"""Profile: what one call does on its device, operator by operator, against what is possible."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from fastdqn import parts
from fastdqn.acting import EnvFacts
from fastdqn.config import Config
from fastdqn.measure.ceilings import Work, count_flops, count_update, measure_ceilings, shares
from fastdqn.measure.ceilings import verdict as verdict_of
from fastdqn.measure.figures import short
from fastdqn.measure.learning import staged, waiter
from fastdqn.measure.machine import describe_machine
from fastdqn.measure.repeat import Effort, Rate, repeat
from fastdqn.measure.synthetic import random_mask, random_obs
from fastdqn.measure.timeline import read_timeline
from fastdqn.measure.training import measure_training, run_turns
from fastdqn.record.files import to_json, write_whole
from fastdqn.resolve import preview

WHATS = ("learn", "act", "train")
_SHOWN = 12


class Subject(NamedTuple):
    """What is profiled.

    rate    calls per second, measured without a profiler, whose bookkeeping would count as theirs
    run     makes so many calls between begin() and end(), after burn-in
    device  where; work  of one call, None where nobody can say
    """

    rate: Callable[[Effort], Rate]
    run: Callable[[int, Callable[[], None], Callable[[], None]], None]
    device: torch.device
    work: Work | None


def profile_calls(
    what: str, config: Config, calls: int, folder: Path, effort: Effort
) -> dict[str, Any]:
    """Profile calls of a part of a run after burn-in; writes trace.json and profile.json.

    what    learn: an update; act: a policy call for num_envs lanes; train: a turn of the loop
    config  must have passed check()
    folder  is made if it is not there; both files appear whole
    returns what profile.json holds
    """
    config, facts = preview(config)
    assert config.threads is not None
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with _SUBJECTS[what](config, facts) as subject:
            result = _profile(what, config, subject, calls, folder, effort)
    finally:
        torch.set_num_threads(before)
    write_whole(folder / "profile.json", to_json(result, indent=1) + "\n")
    return result


def _profile(what, config: Config, subject: Subject, calls, folder: Path, effort) -> dict:
    wait, is_gpu = waiter(subject.device), subject.device.type == "cuda"
    rate = subject.rate(effort)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_gpu
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(subject.device)
    with ExitStack() as ended:

        def begin() -> None:
            recorded.start()
            ended.callback(recorded.stop)  # an exception through a running one crashes torch
            ended.enter_context(_named(what, is_gpu))

        def end() -> None:
            wait()
            ended.close()

        recorded = profile(activities=activities, profile_memory=True)
        subject.run(calls, begin, end)
    write_trace(recorded, folder)
    timeline = read_timeline(recorded, what, calls, is_gpu)
    ceilings = measure_ceilings(subject.device, effort)
    seconds = 1.0 / rate.median
    result = {
        "what": what, "env_id": config.env_id, "preset": config.preset,
        "num_envs": config.num_envs, "batch_size": config.batch_size,
        "capture": config.capture, "calls": calls,
        "seconds_per_call": seconds, "seconds_per_call_min": 1.0 / rate.most,
        "seconds_per_call_max": 1.0 / rate.least,
        "launches_per_call": timeline.launches,
        "busy_share": timeline.busy, "gap_seconds_per_call": timeline.gaps,
        "allocated_bytes_per_call": timeline.allocated,
        "peak_bytes": torch.cuda.max_memory_allocated(subject.device) if is_gpu else None,
        "ceiling_flops_per_second": ceilings.flops_per_second,
        "ceiling_bytes_per_second": ceilings.bytes_per_second,
        "flops_per_call": None, "least_bytes_per_call": None,
        "achieved_share_of_flops": None, "achieved_share_of_bytes": None,
        "verdict": verdict_of(subject.work, seconds, ceilings, timeline.busy, is_gpu),
        "operators": timeline.operators, "machine": describe_machine(str(subject.device)),
    }  # fmt: skip
    if subject.work is not None:
        arithmetic, moving = shares(subject.work, seconds, ceilings)
        result |= {
            "flops_per_call": subject.work.flops,
            "least_bytes_per_call": subject.work.least_bytes,
            "achieved_share_of_flops": arithmetic, "achieved_share_of_bytes": moving,
        }  # fmt: skip
    return result


def write_trace(recorded: profile, folder: Path) -> None:
    """A trace that Perfetto and chrome://tracing open, whole or not at all."""
    temporary = folder / f".trace.{os.getpid()}.json"
    try:
        recorded.export_chrome_trace(str(temporary))
        os.replace(temporary, folder / "trace.json")
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(what: str, is_gpu: bool) -> Iterator[None]:
    """A range in the trace, and for NVIDIA's own tools."""
    with record_function(what), torch.cuda.nvtx.range(what) if is_gpu else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _learn(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    online, _ = parts.make_online(config, facts)
    learner = parts.make_learner(config, online)
    staging = staged(config, facts, online.weights.device)
    # Counted on another: a compiler leaves alone for good what it first sees under a counter.
    eager = parts.make_learner(config.replace(capture="eager"), parts.make_online(config, facts)[0])
    work = count_update(eager, staging)
    learner.prepare(staging.device)

    device = online.weights.device
    yield _repeated(lambda: _drop(learner.update(staging.device)), device, work)


@contextlib.contextmanager
def _act(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    online, _ = parts.make_online(config, facts)
    policy = parts.make_policy(config, online, parts.make_learner(config, online).value, facts)
    rng = np.random.default_rng(0)
    obs = random_obs(rng, config.num_envs, facts.obs_shape, facts.obs_dtype)
    mask = random_mask(rng, config.num_envs, facts.num_actions) if facts.has_masks else None
    work = Work(count_flops(lambda: policy(obs, mask)), online.weights.nbytes + obs.nbytes)
    yield _repeated(lambda: _drop(policy.act(obs, 0.05, mask)), online.weights.device, work)


def _repeated(call: Callable[[], None], device: torch.device, work: Work | None) -> Subject:
    def run(calls: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        begin()
        for _ in range(calls):
            call()
        end()

    return Subject(lambda effort: repeat(call, effort, finish=waiter(device)), run, device, work)


@contextlib.contextmanager
def _train(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    def rate(effort: Effort) -> Rate:
        return measure_training(config, effort).figure.rate.scaled(1 / config.num_envs)

    def run(calls: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        run_turns(config, calls, begin, end)

    yield Subject(rate, run, torch.device(config.device), None)


_SUBJECTS = {"learn": _learn, "act": _act, "train": _train}


def _drop(_: object) -> None:
    """A call's result is no count."""


def profile_tables(result: dict[str, Any]) -> Iterator[Table | str]:
    """What profile.json says, for a person."""
    unit = {"learn": "update", "act": "call", "train": "turn of the loop"}[result["what"]]
    drawn = Table(title=f"operators of one {unit}", title_justify="left", box=None, pad_edge=False)
    for heading in ("operator", "calls", "us", "share"):
        drawn.add_column(heading, justify="left" if heading == "operator" else "right")
    for row in result["operators"][:_SHOWN]:
        drawn.add_row(
            row["name"], f"{row['calls_per_call']:g}", f"{row['microseconds_per_call']:.1f}",
            f"{100 * row['share']:.1f} %",
        )  # fmt: skip
    yield drawn
    said = (
        f"one {unit} takes {1e6 * result['seconds_per_call']:,.1f} us: "
        f"{result['launches_per_call']:g} launches, busy {100 * result['busy_share']:.0f} %, "
        f"gaps {1e6 * result['gap_seconds_per_call']:,.1f} us (both while profiled), "
        f"{short(result['allocated_bytes_per_call'])}B allocated"
    )
    yield said
    if result["flops_per_call"] is not None:
        yield (
            f"{short(result['flops_per_call'])}FLOP, "
            f"{100 * result['achieved_share_of_flops']:.1f} % of the "
            f"{short(result['ceiling_flops_per_second'])}FLOP/s of a large product; at least "
            f"{short(result['least_bytes_per_call'])}B, "
            f"{100 * result['achieved_share_of_bytes']:.1f} % of the "
            f"{short(result['ceiling_bytes_per_second'])}B/s of a large copy"
        )
    yield f"verdict: {result['verdict']}"
