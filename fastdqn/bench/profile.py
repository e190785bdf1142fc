"""Profile: what one call does on its device, operator by operator, against what is possible."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from fastdqn.bench.learner_speed import staged, waiter
from fastdqn.bench.machine_info import describe_machine, torch_threads
from fastdqn.bench.policy_speed import lanes_of_a_call
from fastdqn.bench.profile_timeline import FUSED, Timeline, copied_bytes, read_timeline
from fastdqn.bench.repeats import Effort, Rate, repeat
from fastdqn.bench.results import short
from fastdqn.bench.roofline import Work, count_flops, count_update, measure_ceilings, shares
from fastdqn.bench.roofline import verdict as verdict_of
from fastdqn.bench.synthetic_data import random_mask, random_obs
from fastdqn.bench.torch_profiler import Call, Recorded, record, write_trace
from fastdqn.bench.training_speed import measure_training, run_turns
from fastdqn.builders import agent
from fastdqn.builders.auto_options import preview
from fastdqn.builders.devices import arithmetic
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.files.atomic_write import to_json
from fastdqn.files.output_files import write_together

WHATS = ("learn", "act", "train")
_SHOWN = 12


class Subject(NamedTuple):
    """What is profiled.

    rate    calls per second, measured without a profiler, whose bookkeeping would count as theirs
    run     makes so many calls, after burn-in, between the begin() and end() it is given, and says
            how many it made: as many as are launched at once, or a multiple
    device  where; work  of one call, None where nobody can say
    eager   as run, of the same calls as they are written; None where they are run so anyway
    """

    rate: Callable[[Effort], Rate]
    run: Callable[[int, Call, Call], int]
    device: torch.device
    work: Work | None
    eager: Callable[[int, Call, Call], int] | None = None


def profile_calls(
    what: str, config: Config, calls: int, folder: Path, effort: Effort
) -> dict[str, Any]:
    """Profile calls of a part of a run after burn-in; writes trace.json and profile.json.

    what    learn: an update; act: a policy call for the lanes of one; train: a turn of the loop
    config  must have passed check()
    folder  is there; both files appear whole, and together
    returns what profile.json holds
    Raises WriteError where they cannot be written.
    """
    config, facts = preview(config)
    with (
        torch_threads(config.threads),
        arithmetic(config),
        _SUBJECTS[what](config, facts) as subject,
    ):
        return _profile(what, config, subject, calls, folder, effort)


def _profile(what, config: Config, subject: Subject, calls, folder: Path, effort) -> dict:
    is_gpu = subject.device.type == "cuda"
    rate = subject.rate(effort)
    recorded, calls, timeline = _recorded(what, subject.device, subject.run, calls)
    uncaptured = timeline
    if subject.eager is not None:
        uncaptured = _recorded(what, subject.device, subject.eager, calls)[2]
    ceilings = measure_ceilings(subject.device, effort)
    seconds = 1.0 / rate.median
    busy, gaps = busy_share(timeline, seconds, is_gpu)
    result = {
        "what": what, "env_id": config.env_id, "preset": config.preset,
        "num_envs": config.num_envs, "batch_size": config.batch_size,
        "learner": config.learner, "capture": config.capture, "precision": config.precision,
        "updates_per_launch": config.updates_per_launch, "calls": calls,
        "seconds_per_call": seconds, "seconds_per_call_min": 1.0 / rate.most,
        "seconds_per_call_max": 1.0 / rate.least,
        "launches_per_call": timeline.launches,
        "host_launches_per_call": timeline.host_launches,
        "host_launches_per_call_eager": uncaptured.host_launches,
        "busy_share": busy, "gap_seconds_per_call": gaps,
        "allocated_bytes_per_call": timeline.allocated, "peak_bytes": recorded.peak_bytes,
        "ceiling_flops_per_second": ceilings.flops_per_second,
        "ceiling_bytes_per_second": ceilings.bytes_per_second,
        "bytes_to_device_per_call": 0.0, "bytes_to_host_per_call": 0.0,
        "flops_per_call": None, "least_bytes_per_call": None,
        "flops_per_second": None, "bytes_per_second": None,
        "achieved_share_of_flops": None, "achieved_share_of_bytes": None,
        "verdict": verdict_of(subject.work, seconds, ceilings, busy, is_gpu),
        "operators": timeline.operators,
        "machine": describe_machine(str(subject.device), config.threads),
    }  # fmt: skip
    if subject.work is not None:
        arithmetic, moving = shares(subject.work, seconds, ceilings)
        result |= {
            "flops_per_call": subject.work.flops,
            "least_bytes_per_call": subject.work.least_bytes,
            "flops_per_second": subject.work.flops / seconds,
            "bytes_per_second": subject.work.least_bytes / seconds,
            "achieved_share_of_flops": arithmetic, "achieved_share_of_bytes": moving,
        }  # fmt: skip

    def write_figures(path: Path) -> None:
        if is_gpu:  # torch tells the bytes of copies in the trace alone, which is there by now
            result.update(copied_bytes(path.with_name("trace.json"), calls))
        path.write_text(to_json(result, indent=1) + "\n")

    writers = {
        "trace.json": lambda path: write_trace(recorded.profile, path),
        "profile.json": write_figures,
    }
    write_together(folder, writers)
    return result


def _recorded(what: str, device: torch.device, run, calls: int) -> tuple[Recorded, int, Timeline]:
    """A recording of at least so many calls, how many they were, and what it says of one."""
    made = calls

    def counted(begin: Call, end: Call) -> None:
        nonlocal made
        made = run(calls, begin, end)

    recorded = record(what, device, counted)
    return recorded, made, read_timeline(recorded.profile, what, made, device.type == "cuda")


def busy_share(timeline: Timeline, seconds: float, is_gpu: bool) -> tuple[float, float]:
    """Share of a call in which its device was busy, and the seconds in which it was not.

    seconds  of a call without a profiler: kernels take as long with one, and all between them
    longer. A CPU's operators are slowed themselves: they go by the recorded time.
    """
    whole = seconds if is_gpu else timeline.seconds
    return min(1.0, timeline.busy_seconds / whole), max(0.0, whole - timeline.busy_seconds)


@contextlib.contextmanager
def _learn(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    online, _ = agent.make_online(config, facts)
    device = online.weights.device
    learner = agent.make_learner(config, online)
    staging = staged(config, facts, device)
    # Counted on another: a compiler leaves alone for good what it first sees under a counter.
    as_torch = config.replace(learner="torch", capture="eager", updates_per_launch=1)
    eager = agent.make_learner(as_torch, agent.make_online(config, facts)[0])
    work = count_update(eager, staging)
    batches = staging.all_devices[0]
    with _visible_kernels(config.capture):
        learner.prepare(*batches)

        def update() -> int:
            learner.update(*batches)
            return len(batches)

        def seen() -> int:  # by a profiler of torch, which is told of torch's operators alone
            with torch.profiler.record_function(FUSED):
                return update()

        def as_written() -> int:
            eager.update(staging.device)
            return 1

        subject = _repeated(update, device, work)
        recorded = seen if config.learner == "fused" else update
        other = _runner(as_written, device) if config.capture == "graph" else None
        yield subject._replace(run=_runner(recorded, device), eager=other)


def _visible_kernels(capture: str) -> contextlib.AbstractContextManager[Any]:
    """Within, what torch compiles for a CPU tells a profiler of each of its kernels."""
    if capture == "eager":
        return contextlib.nullcontext()
    from torch._inductor import config  # a second, which only this needs

    return config.patch({"cpp.enable_kernel_profile": True})


@contextlib.contextmanager
def _act(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    online, _ = agent.make_online(config, facts)
    value = agent.make_learner(config, online).value
    policy = agent.make_policy(config, online, value, facts)
    # Counted on another: see _learn(); and what is recorded is made several times.
    as_torch = config.replace(learner="torch", capture="eager")
    counted = agent.make_policy(as_torch, online, value, facts)
    rng, lanes = np.random.default_rng(0), lanes_of_a_call(config)
    obs = random_obs(rng, lanes, facts.obs_shape, facts.obs_dtype)
    mask = random_mask(rng, lanes, facts.num_actions) if facts.has_masks else None
    flops = count_flops(lambda: counted.act(obs, 0.05, mask))
    work = Work(flops, online.weights.nbytes + obs.nbytes)

    def act() -> int:
        policy.act(obs, 0.05, mask)
        return 1

    yield _repeated(act, online.weights.device, work)


def _repeated(call: Callable[[], int], device: torch.device, work: Work | None) -> Subject:
    def rate(effort: Effort) -> Rate:
        return repeat(call, effort, finish=waiter(device))

    return Subject(rate, _runner(call, device), device, work)


def _runner(call: Callable[[], int], device: torch.device) -> Callable[[int, Call, Call], int]:
    # Each call is a range of its own for NVIDIA's tools.
    each = torch.cuda.nvtx.range if device.type == "cuda" else contextlib.nullcontext

    def run(calls: int, begin: Call, end: Call) -> int:
        made = 0
        begin()
        while made < calls:
            with each("call"):
                made += call()
        end()
        return made

    return run


@contextlib.contextmanager
def _train(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    def rate(effort: Effort) -> Rate:
        return measure_training(config, effort).turns

    def run(calls: int, begin: Call, end: Call) -> int:
        run_turns(config, calls, begin, end)
        return calls

    yield Subject(rate, run, torch.device(config.device), None)


_SUBJECTS = {"learn": _learn, "act": _act, "train": _train}


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
    note = " (both while profiled)" if result["machine"]["device"] == "cpu" else ""
    said = (
        f"one {unit} takes {1e6 * result['seconds_per_call']:,.1f} us: "
        f"{result['launches_per_call']:g} launches, busy {100 * result['busy_share']:.0f} %, "
        f"gaps {1e6 * result['gap_seconds_per_call']:,.1f} us{note}, "
        f"{short(result['allocated_bytes_per_call'])}B allocated"
    )
    yield said
    if result["machine"]["device"] != "cpu":
        yield (
            f"the host launches {result['host_launches_per_call']:g} times, not captured "
            f"{result['host_launches_per_call_eager']:g}; "
            f"{short(result['bytes_to_device_per_call'])}B to the device, "
            f"{short(result['bytes_to_host_per_call'])}B back"
        )
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
