"""Profiler of a call: operators, launches and busy time, compared with the roofline."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from fastdqn.bench.learner_speed import device_store, staged, waiter
from fastdqn.bench.machine_info import describe_machine, machine_line, torch_threads
from fastdqn.bench.policy_speed import lanes_of_a_call, slots_of
from fastdqn.bench.repeats import Effort, Rate, repeat
from fastdqn.bench.results import short
from fastdqn.bench.roofline import (
    LEAST_ATTRIBUTED,
    Work,
    count_flops,
    count_update,
    measure_ceilings,
    phases_verdict,
    remedy,
    shares,
    unattributed,
)
from fastdqn.bench.roofline import verdict as verdict_of
from fastdqn.bench.synthetic_data import random_mask, random_obs
from fastdqn.bench.torch_profiler import (
    Call,
    Recorded,
    marker,
    record,
    step_marker,
    write_trace,
)
from fastdqn.bench.trace_reader import Timeline, copied_bytes, read_timeline
from fastdqn.bench.training_speed import measure_training, run_turns
from fastdqn.builders import agent
from fastdqn.builders.devices import arithmetic
from fastdqn.builders.preflight import preview
from fastdqn.config.conflicts import is_compiled, is_graph
from fastdqn.config.schema import Config
from fastdqn.envs import EnvFacts
from fastdqn.files.atomic_write import to_json
from fastdqn.files.output_files import write_together
from fastdqn.learning.marks import mark_learner, mark_policy

WHATS = ("learn", "act", "train")
_SHOWN = 12


class Subject(NamedTuple):
    """Subject of a profile.

    Attributes:
        rate: Measures calls per second without a profiler, which would slow them.
        run: Makes at least a number of calls between begin() and end(), and returns how many. It
            is a multiple of the calls per launch.
        device: Device of the calls.
        work: Operations and bytes of one call, or None if unknown.
        eager: As run, without graph capture. None: run has none.
        phases: Fractions of the time in the phases of the loop, as rate() measured them without a
            profiler. Empty: the calls are no loop.
    """

    rate: Callable[[Effort], Rate]
    run: Callable[[int, Call, Call], int]
    device: torch.device
    work: Work | None
    eager: Callable[[int, Call, Call], int] | None = None
    phases: Mapping[str, float] = {}


def profile_calls(
    what: str, config: Config, calls: int, folder: Path, effort: Effort, shapes: bool = False
) -> dict[str, Any]:
    """Profiles calls after burn-in, and writes trace.json and profile.json.

    Args:
        what: learn (an update), act (a policy call) or train (an iteration of the loop).
        config: Options that have passed check().
        calls: Minimum number of calls.
        folder: Existing folder. Both files are written together, or not at all.
        effort: Duration of the measurements without a profiler.
        shapes: Whether to tell operators with different shapes of inputs apart.

    Returns:
        Content of profile.json.

    Raises:
        WriteError: A file cannot be written.
    """
    setup = preview(config)
    config, facts = setup.config, setup.facts
    with (
        torch_threads(config.threads),
        arithmetic(config),
        _SUBJECTS[what](config, facts) as subject,
    ):
        return _profile(what, config, subject, calls, folder, effort, shapes)


def _profile(
    what, config: Config, subject: Subject, calls, folder: Path, effort, shapes: bool = False
) -> dict:
    is_gpu = subject.device.type == "cuda"
    rate = subject.rate(effort)
    recorded, calls, timeline = _recorded(what, subject.device, subject.run, calls, shapes)
    uncaptured = timeline
    if subject.eager is not None:
        uncaptured = _recorded(what, subject.device, subject.eager, calls, shapes)[2]
    ceilings = measure_ceilings(subject.device, effort)
    seconds = 1.0 / rate.median
    busy, gaps = busy_share(timeline, seconds, is_gpu)
    attributed = timeline.attributed
    if subject.phases:
        attributed = min(attributed, sum(subject.phases.values()))
        verdict = phases_verdict(dict(subject.phases))
    else:
        verdict = verdict_of(subject.work, seconds, ceilings, busy, is_gpu)
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
        "arithmetic_intensity": None, "ridge_point": ceilings.ridge_point,
        "achieved_share_of_flops": None, "achieved_share_of_bytes": None,
        "attributed_share": attributed,
        "verdict": verdict if attributed >= LEAST_ATTRIBUTED else None,
        "phase_shares": dict(subject.phases), "phases": list(timeline.phases),
        "phases_eager": list(uncaptured.phases) if subject.eager is not None else None,
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
            "arithmetic_intensity": subject.work.intensity,
            "achieved_share_of_flops": arithmetic, "achieved_share_of_bytes": moving,
        }  # fmt: skip

    def write_figures(path: Path) -> None:
        if is_gpu:  # only the trace, which is written first, contains the bytes of copies
            result.update(copied_bytes(path.with_name("trace.json"), calls))
        path.write_text(to_json(result, indent=1) + "\n")

    writers = {
        "trace.json": lambda path: write_trace(recorded.profile, path),
        "profile.json": write_figures,
    }
    write_together(folder, writers)
    return result


def _recorded(
    what: str, device: torch.device, run, calls: int, shapes: bool
) -> tuple[Recorded, int, Timeline]:
    """Profiles at least calls calls. Returns the profile, their number, and the timeline."""
    made = calls

    def counted(begin: Call, end: Call) -> None:
        nonlocal made
        made = run(calls, begin, end)

    recorded = record(what, device, counted, shapes)
    timeline = read_timeline(
        recorded.profile, what, made, device.type == "cuda", shapes, recorded.mark_seconds
    )
    return recorded, made, timeline


def busy_share(timeline: Timeline, seconds: float, is_gpu: bool) -> tuple[float, float]:
    """Returns the busy fraction of a call, and its idle seconds.

    Args:
        timeline: Recorded timeline.
        seconds: Duration of a call without a profiler, used on a GPU: profiling slows the gaps
            between kernels, but not kernels. On a CPU it slows operators, so the recorded
            duration is used.
        is_gpu: Whether the device is a GPU.
    """
    whole = seconds if is_gpu else timeline.seconds
    return min(1.0, timeline.busy_seconds / whole), max(0.0, whole - timeline.busy_seconds)


@contextlib.contextmanager
def _learn(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    online, _ = agent.make_online(config, facts)
    device = online.weights.device
    store = device_store(config, facts)
    learner = agent.make_learner(config, online, store=store)
    staging = staged(config, facts, device, store)
    # FLOPs are counted on a second learner: torch.compile skips what first runs under a counter.
    as_torch = config.replace(learner="torch", capture="eager", updates_per_launch=1)
    eager = agent.make_learner(as_torch, agent.make_online(config, facts)[0], store=store)
    work = count_update(eager, staging)
    batches = staging.all_devices[0]
    with _visible_kernels(config.capture):
        learner.prepare(*batches)

        def update() -> int:
            learner.update(*batches)
            return len(batches)

        def as_written() -> int:
            eager.update(staging.device)
            return 1

        marked = [_marked(learner, mark_learner, device), _marked(eager, mark_learner, device)]
        subject = _repeated(update, device, work, marked[0])
        other = _runner(as_written, device, marked[1]) if is_graph(config.capture) else None
        yield subject._replace(eager=other)


def _visible_kernels(capture: str) -> contextlib.AbstractContextManager[Any]:
    """Within, compiled CPU kernels of torch are visible to the profiler."""
    if not is_compiled(capture):
        return contextlib.nullcontext()
    from torch._inductor import config  # takes a second to import

    return config.patch({"cpp.enable_kernel_profile": True})


@contextlib.contextmanager
def _act(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    online, _ = agent.make_online(config, facts)
    value, store = agent.make_learner(config, online).value, device_store(config, facts)
    policy = agent.make_policy(config, online, value, facts, store=store)
    # FLOPs are counted on a second policy, see _learn().
    as_torch = config.replace(learner="torch", capture="eager")
    counted = agent.make_policy(as_torch, online, value, facts)
    rng, lanes = np.random.default_rng(0), lanes_of_a_call(config)
    obs = random_obs(rng, lanes, facts.obs_shape, facts.obs_dtype)
    mask = random_mask(rng, lanes, facts.num_actions) if facts.has_masks else None
    flops = count_flops(lambda: counted.act(obs, 0.05, mask))
    work = Work(flops, online.weights.nbytes + obs.nbytes)
    slots = slots_of(store, lanes)

    def act() -> int:
        policy.act(obs, 0.05, mask, slots=slots)
        return 1

    device = online.weights.device
    yield _repeated(act, device, work, _marked(policy, mark_policy, device))


def _marked(part: Any, mark_part: Callable, device: torch.device) -> Call:
    """Returns a function that marks a learner or a policy, once, before it is recorded."""
    return functools.cache(lambda: mark_part(part, marker(device)))


def _repeated(
    call: Callable[[], int], device: torch.device, work: Work | None, prepare: Call
) -> Subject:
    def rate(effort: Effort) -> Rate:
        return repeat(call, effort, finish=waiter(device))

    return Subject(rate, _runner(call, device, prepare), device, work)


def _runner(
    call: Callable[[], int], device: torch.device, prepare: Call
) -> Callable[[int, Call, Call], int]:
    """Returns a function that makes calls, each in a range, after prepare()."""
    each = step_marker(device)

    def run(calls: int, begin: Call, end: Call) -> int:
        prepare()
        call()  # the first use of a range takes longer
        made = step = 0
        begin()
        while made < calls:
            with each(step):
                made += call()
            step += 1
        end()
        return made

    return run


@contextlib.contextmanager
def _train(config: Config, facts: EnvFacts) -> Iterator[Subject]:
    device, phases = torch.device(config.device), {}

    def rate(effort: Effort) -> Rate:
        trained = measure_training(config, effort)
        phases.update({name: took / trained.seconds for name, took in trained.phases.items()})
        return trained.turns

    def run(calls: int, begin: Call, end: Call) -> int:
        run_turns(config, calls, begin, end, marker(device), step_marker(device))
        return calls

    yield Subject(rate, run, device, None, phases=phases)


_SUBJECTS = {"learn": _learn, "act": _act, "train": _train}


def profile_tables(result: dict[str, Any]) -> Iterator[Table | str]:
    """Yields the content of profile.json as tables and lines."""
    unit = {"learn": "update", "act": "call", "train": "iteration of the loop"}[result["what"]]
    if result["phases"]:
        yield _phase_table(result, unit)
    yield _operator_table(result, unit)
    note = " (busy and gaps with the profiler)" if result["machine"]["device"] == "cpu" else ""
    busy = (
        f"busy {100 * result['busy_share']:.0f} %, "
        f"gaps {1e6 * result['gap_seconds_per_call']:,.1f} us{note}, "
    )
    if result["phase_shares"] and result["machine"]["device"] == "cpu":
        busy = ""  # environments and the replay are busy without operators
    summary = (
        f"one {unit} takes {1e6 * result['seconds_per_call']:,.1f} us: "
        f"{result['launches_per_call']:g} launches, {busy}"
        f"{short(result['allocated_bytes_per_call'])}B allocated"
    )
    yield summary
    if result["machine"]["device"] != "cpu":
        yield (
            f"{result['host_launches_per_call']:g} launches by the host, "
            f"{result['host_launches_per_call_eager']:g} without capture; "
            f"{short(result['bytes_to_device_per_call'])}B to the device, "
            f"{short(result['bytes_to_host_per_call'])}B to the host"
        )
    if result["flops_per_call"] is not None:
        yield (
            f"{short(result['flops_per_call'])}FLOP, "
            f"{100 * result['achieved_share_of_flops']:.1f} % of the "
            f"{short(result['ceiling_flops_per_second'])}FLOP/s of a large matmul; at least "
            f"{short(result['least_bytes_per_call'])}B, "
            f"{100 * result['achieved_share_of_bytes']:.1f} % of the "
            f"{short(result['ceiling_bytes_per_second'])}B/s of a large copy"
        )
        yield (
            f"arithmetic intensity {result['arithmetic_intensity']:.3g} FLOP/B; ridge point "
            f"{result['ridge_point']:.3g} FLOP/B"
        )
    attributed = result["attributed_share"]
    yield f"attributed to phases and operators: {100 * attributed:.1f} % of the recorded time"
    least, most = (1e6 * result[f"seconds_per_call_{end}"] for end in ("min", "max"))
    yield f"between {least:,.1f} and {most:,.1f} us without the profiler; {machine_line()}"
    yield f"verdict: {result['verdict'] or unattributed(attributed)}"
    if (advice := _next_step(result)) is not None:
        yield f"next: {advice}"


def _next_step(result: dict[str, Any]) -> str | None:
    """Returns what to try after a verdict on this device, or None."""
    if result["verdict"] is None:
        return None
    if result["phase_shares"]:
        longest = max(result["phase_shares"], key=result["phase_shares"].get)
        parts = {"learn": "fastdqn profile --what learn", "act": "fastdqn profile --what act"}
        return parts.get(longest, "fastdqn bench all") + " with the same options"
    is_gpu = result["machine"]["device"] != "cpu"
    first = result["verdict"].partition(" ")[0]
    return remedy(first, is_gpu, is_fused=result["learner"] == "fused")


def _phase_table(result: dict[str, Any], unit: str) -> Table:
    """Returns the marked ranges: phases of the loop, and parts and kernels inside them."""
    plain = result["phase_shares"]
    more = ["without the profiler"] * bool(plain)
    drawn = _table(f"phases of one {unit}", "phase", "calls", "us", "share", *more)
    for row in result["phases"]:
        name = row["name"]
        cells = [
            name if row["kind"] == "phase" else f"{name} ({row['kind']})",
            f"{row['calls_per_call']:g}",
            f"{row['microseconds_per_call']:.1f}",
            f"{100 * row['share']:.1f} %",
        ]
        if plain:
            cells.append(f"{100 * plain[name]:.1f} %" if name in plain else "")
        drawn.add_row(*cells)
    return drawn


def _operator_table(result: dict[str, Any], unit: str) -> Table:
    with_shapes = any("shapes" in row for row in result["operators"])
    headings = ["operator", "calls", "self us", "total us", "share"]
    drawn = _table(f"operators of one {unit}", *headings, *["shapes"] * with_shapes)
    for row in result["operators"][:_SHOWN]:
        drawn.add_row(
            row["name"], f"{row['calls_per_call']:g}", f"{row['self_microseconds_per_call']:.1f}",
            f"{row['total_microseconds_per_call']:.1f}", f"{100 * row['share']:.1f} %",
            *[" ".join(map(str, row.get("shapes", [])))] * with_shapes,
        )  # fmt: skip
    return drawn


def _table(title: str, *headings: str) -> Table:
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        is_text = heading in (headings[0], "shapes")
        drawn.add_column(heading, justify="left" if is_text else "right")
    return drawn
