"""Parts update, kernels and micro of the GPU suite: updates, their kernels, and operations."""

import contextlib
import gzip
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from fastdqn.bench.learner_speed import by_device_events, learner_on, waiter
from fastdqn.bench.machine_info import describe_machine
from fastdqn.bench.policy_speed import measure_acting
from fastdqn.bench.repeats import Effort, repeat
from fastdqn.bench.replay_speed import measure_sampling
from fastdqn.bench.synthetic_data import fill_replay
from fastdqn.bench.torch_profiler import record, write_trace
from fastdqn.bench.training_speed import measure_training
from fastdqn.builders import agent
from fastdqn.builders.devices import arithmetic
from fastdqn.builders.preflight import prepare
from fastdqn.config.schema import Config, ConfigError
from fastdqn.envs import EnvFacts
from fastdqn.learning.adam import FusedAdam
from fastdqn.learning.graph_capture import CudaRecorder
from gpu_rows import Bench, Cell, Row

BATCH_SIZES = (32, 256, 512)
# Ways to run an update: name, and options. The last one takes a minute to compile.
WAYS: dict[str, Row] = {
    "graph": {"capture": "graph", "precision": "tf32"},
    "bf16 graph": {"capture": "graph", "precision": "bf16"},
    "graph of 8": {"capture": "graph", "precision": "tf32", "updates_per_launch": 8},
    "eager": {"capture": "eager", "precision": "tf32"},
    "compile-graph": {"capture": "compile-graph", "precision": "tf32"},
}
_ATARI = EnvFacts((4, 84, 84), np.dtype(np.uint8), 1 / 255, 6, 0)
_SMALL = _ATARI._replace(obs_shape=(4, 36, 36))  # of a dry run
_VECTORS = EnvFacts((4,), np.dtype(np.float32), 1.0, 2, 0)
_RAINBOW: Row = {
    "prioritized": True, "n_steps": 3, "value": "categorical", "noisy": True,
}  # fmt: skip
# Networks: name, facts of the environment, and options. Double and Dueling are defaults.
NETWORKS: dict[str, tuple[EnvFacts, Row]] = {
    "nature": (_ATARI, {}),
    "mlp 64-64": (_VECTORS, {"hidden_sizes": (64, 64)}),
    "mlp 1024-1024": (_VECTORS, {"hidden_sizes": (1024, 1024)}),
    "rainbow": (_ATARI, _RAINBOW),
}
_MLPS = ("mlp 64-64", "mlp 1024-1024")
# Largest trace that is kept, compressed; kernels that are listed, and characters of their names.
_MOST_TRACE_BYTES, _LISTED, _NAME = 8 << 20, 40, 160
# Options of the CPU in place of those that need a GPU.
_ON_CPU: Row = {"capture": "eager", "precision": "float32", "updates_per_launch": 1}


def machine_figures(device: str) -> Row:
    """Returns what is known of the machine, without paths and its name."""
    found = describe_machine(device, 1)
    if device == "cpu":
        return found
    properties = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit"]
    try:
        shown = subprocess.run([*asked, "--format=csv,noheader"], capture_output=True, timeout=10)
        driver = shown.stdout.decode().strip() if shown.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        driver = None
    return found | {
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver,
        "device_bytes": properties.total_memory, "processors": properties.multi_processor_count,
    }  # fmt: skip


def _effort(bench: Bench) -> Effort:
    return Effort(0.002, 2, 0.0) if bench.dry else Effort(0.3, 4, 0.3)


def resolved(bench: Bench, config: Config, facts: EnvFacts | None) -> Config:
    """Returns validated and resolved options. On the CPU, those that need a GPU are replaced.

    Raises:
        ConfigError: This version does not know a value of an option, or they conflict.
    """
    if lines := config.type_problems():
        raise ConfigError(lines)
    if not bench.on_gpu:
        store = "frames" if str(config.store) == "device" else config.store
        config = config.replace(**_ON_CPU, store=store)
    setup, lines = prepare(config.replace(run_dir=str(bench.temporary / "none")), facts)
    if setup is None:
        raise ConfigError(lines)
    return setup.config


def update_cells(bench: Bench) -> list[Cell]:
    """Returns the cells of updates, ordered by value per second."""
    order: list[tuple[str, int, str]] = [
        *(("nature", size, way) for way in list(WAYS)[:-1] for size in BATCH_SIZES),
        *((name, 128, way) for name in _MLPS for way in ("graph", "eager")),
        *(("rainbow", 32, way) for way in ("graph", "eager")),
        *(("nature", size, "compile-graph") for size in BATCH_SIZES),
        *((name, 128, "compile-graph") for name in _MLPS),
        ("rainbow", 32, "compile-graph"),
    ]  # fmt: skip
    cells = [_update_cell(*each) for each in order]
    stores = [_store_cell(size, store) for size in BATCH_SIZES for store in ("frames", "device")]
    first = order.index(("nature", BATCH_SIZES[0], "compile-graph"))
    return [*cells[:first], *stores, *cells[first:]]


def _update_cell(network: str, batch_size: int, way: str) -> Cell:
    settings = {"network": network, "batch_size": batch_size, **WAYS[way]}
    run = partial(_measure_update, network=network, batch_size=batch_size, way=way)
    return Cell(f"{network}, batch {batch_size}, {way}", run, settings)


def _config(bench: Bench, network: str, batch_size: int, way: str) -> tuple[Config, EnvFacts]:
    facts, options = NETWORKS[network]
    options = {"updates_per_launch": 1, "store": "rows", **WAYS[way], **options}
    if bench.dry:
        facts = _SMALL if facts is _ATARI else facts
        options["hidden_sizes"] = (32,)
    size = 2 if bench.dry else batch_size
    config = Config(device=bench.device, learner="torch", threads=1, batch_size=size, **options)
    return resolved(bench, config, facts), facts


def _measure_update(bench: Bench, network: str, batch_size: int, way: str) -> Row:
    """Measures updates/s by the clock of the host, and by that of the device."""
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    compiles = WAYS[way]["capture"].startswith("compile")
    config, facts = _config(bench, network, batch_size, way)
    compiled: Row = {}
    with arithmetic(config), really_compiled(compiled) if compiles and bench.on_gpu else _as_is():
        update, device, prepared = learner_on(config, facts)
        rate = repeat(update, _effort(bench), finish=waiter(device))
    figures = {
        "updates_per_second": rate.median, "updates_per_second_min": rate.least,
        "updates_per_second_max": rate.most, "us_per_update": 1e6 / rate.median,
        "samples_per_second": rate.median * config.batch_size, "prepare_seconds": prepared,
        **compiled,
    }  # fmt: skip
    if bench.on_gpu:
        by_device = by_device_events(update, device, _effort(bench)).median
        figures["device_updates_per_second"] = by_device
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return figures


_as_is = contextlib.nullcontext


@contextlib.contextmanager
def really_compiled(figures: Row) -> Iterator[None]:
    """Resets Dynamo, and raises RuntimeError at the end if a function ran uncompiled.

    figures receives the numbers of graphs and of graph breaks.
    """
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(suppress_errors=False):
        yield
    frames, graphs = counters["frames"], counters["stats"]["unique_graphs"]
    if not graphs or frames["ok"] < frames["total"]:
        raise RuntimeError(
            f"fell back to eager: {frames['ok']} of {frames['total']} functions were compiled, in "
            f"{graphs} graphs"
        )
    figures |= {"graphs": graphs, "graph_breaks": sum(counters["graph_break"].values())}


class Pictures(VectorEnv):
    """Returns one stack of equal frames per sub-environment, with the facts of Atari."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    declared_stack = 4

    def __init__(self, num_envs: int, shape: tuple[int, ...]):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = spaces.Discrete(6)
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        frames = np.random.default_rng(0).integers(0, 256, (num_envs, 1, *shape[1:]), np.uint8)
        self._obs = np.repeat(frames, shape[0], axis=1)
        self._reward, self._never = np.ones(num_envs, np.float32), np.zeros(num_envs, np.bool_)
        self._t = 0

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return self._obs, {}

    def step(self, actions):
        self._t += 1
        return self._obs, self._reward, self._never, self._never | (self._t % 501 == 500), {}


def _store_cell(batch_size: int, store: str) -> Cell:
    settings = {"network": "nature", "batch_size": batch_size, "capture": "graph", "store": store}
    run = partial(_measure_loop, batch_size=batch_size, store=store)
    return Cell(f"nature, batch {batch_size}, graph, sampled from {store}", run, settings)


def _measure_loop(bench: Bench, batch_size: int, store: str) -> Row:
    """Measures the loop with an update per step of 16 environments that cost nothing."""
    config = Config(
        device=bench.device, learner="torch", threads=1, num_envs=16, store=store,  # pyright: ignore
        train_frequency=Fraction(4), batch_size=2 if bench.dry else batch_size,
        buffer_size=800 if bench.dry else 50_000, learning_starts=160 if bench.dry else 2_000,
        total_timesteps=1 << 30, capture="graph",
    )  # fmt: skip
    facts = (_SMALL if bench.dry else _ATARI)._replace(stack=Pictures.declared_stack)
    envs = Pictures(config.num_envs, facts.obs_shape)
    config = resolved(bench, config, facts)
    with arithmetic(config):
        trained = measure_training(config, _effort(bench), envs=envs)
    updates = trained.updates / trained.seconds
    return {
        "updates_per_second": updates, "us_per_update": 1e6 / max(updates, 1e-9),
        "steps_per_second": trained.figure.rate.median,
        "phase_us_per_update": {
            name: 1e6 * seconds / max(trained.updates, 1)
            for name, seconds in trained.phases.items()
        },
    }  # fmt: skip


def kernel_cells(bench: Bench) -> list[Cell]:
    """Returns the cells of kernel lists."""
    return [
        Cell(f"nature, batch {size}, graph", partial(_list_kernels, batch_size=size))
        for size in (32, 512)
    ]


def _list_kernels(bench: Bench, batch_size: int) -> Row:
    """Profiles an update, and keeps its compressed trace if it is small."""
    config, facts = _config(bench, "nature", batch_size, "graph")
    updates = 2 if bench.dry else 20
    with arithmetic(config):
        update, device, _ = learner_on(config, facts)

        def run(begin: Callable[[], None], end: Callable[[], None]) -> None:
            repeat(update, _effort(bench), finish=waiter(device))
            begin()
            for _ in range(updates):
                update()
            end()

        recorded = record("learn", device, run)
    trace = bench.temporary / "trace.json"
    write_trace(recorded.profile, trace)
    text = trace.read_bytes()
    packed = gzip.compress(text)
    if len(packed) <= _MOST_TRACE_BYTES:
        (bench.out / f"trace-{batch_size}.json.gz").write_bytes(packed)
    kinds = ("kernel", "gpu_memcpy", "gpu_memset") if bench.on_gpu else ("cpu_op",)
    return kernel_list(json.loads(text)["traceEvents"], updates, kinds)


def kernel_list(events: list[Row], updates: int, kinds: tuple[str, ...]) -> Row:
    """Returns kernels by time, and the gaps between them within a launch, in us per update.

    Args:
        events: Events of a trace, in the format of Chrome.
        updates: Number of updates in the trace.
        kinds: Categories of the events that count.

    Raises:
        ValueError: The trace has no such events.
    """
    work = [event for event in events if event.get("cat") in kinds and event.get("ph") == "X"]
    if not work:
        raise ValueError(f"the trace has no events of the kinds {', '.join(kinds)}")
    of_name: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    reached, launch, busy, between = float("-inf"), None, 0.0, 0.0
    for event in sorted(work, key=lambda each: each["ts"]):
        start, took = float(event["ts"]), float(event["dur"])
        idle = max(0.0, start - reached) if reached > 0 else 0.0
        busy += max(0.0, start + took - max(start, reached))
        own = event.get("args", {}).get("correlation")
        sums = of_name[event["name"]]
        sums[0], sums[1] = sums[0] + 1, sums[1] + took
        if launch is None or own == launch:  # kernels of a graph have the number of its launch
            sums[2] += idle
        else:
            between += idle
        launch, reached = own, max(reached, start + took)
    gaps, total = sum(gap for *_, gap in of_name.values()), sum(s for _, s, _ in of_name.values())
    rows = sorted(of_name.items(), key=lambda each: -each[1][1])
    return {
        "updates": updates, "kernels_per_update": len(work) / updates, "busy_us": busy / updates,
        "gap_us": gaps / updates, "between_launches_us": between / updates,
        "kernels": [
            {
                "name": name[:_NAME], "count": count / updates, "us": took / updates,
                "share": took / total, "gap_before_us": gap / updates,
            }
            for name, (count, took, gap) in rows[:_LISTED]
        ],
    }  # fmt: skip


def micro_cells(bench: Bench) -> list[Cell]:
    """Returns the cells of single operations."""
    rows = 1_000 if bench.dry else 1_000_000
    return [
        Cell("launch of an empty graph", partial(_launch, kernels=0)),
        Cell("launch of a graph of 1 kernel", partial(_launch, kernels=1)),
        Cell("launch of a graph of 100 kernels", partial(_launch, kernels=100)),
        Cell("Adam, eager", partial(_adam, captured=False)),
        Cell("Adam, graph", partial(_adam, captured=True)),
        *(
            Cell(f"copies of {size:,} bytes, pinned", partial(_copies, size=size))
            for size in (1 << 12, 1 << 21, 1 << 25)
        ),
        *(
            Cell(f"actions, {network}, {lanes} environments", partial(_act, network, lanes))
            for network in ("nature", "mlp 64-64") for lanes in (16, 128)
        ),
        Cell(f"gather from {rows:,} rows", partial(_gather, rows=rows)),
        Cell("sampling, uniform", partial(_sample, prioritized=False)),
        Cell("sampling, prioritized", partial(_sample, prioritized=True)),
    ]  # fmt: skip


def _timed(bench: Bench, call: Callable[[], Any], name: str = "") -> Row:
    """Measures the microseconds of a call, by both clocks on a GPU."""

    def once() -> int:
        call()
        return 1

    device = torch.device(bench.device)
    rate = repeat(once, _effort(bench), finish=waiter(device))
    figures = {f"{name}us": 1e6 / rate.median, f"{name}us_min": 1e6 / rate.most}
    if bench.on_gpu:
        by_device = by_device_events(once, device, _effort(bench)).median
        figures[f"{name}device_us"] = 1e6 / by_device
    return figures


def _captured(bench: Bench, call: Callable[[], Any]) -> Callable[[], None]:
    return CudaRecorder(torch.device(bench.device))(call)[0] if bench.on_gpu else call


def _launch(bench: Bench, kernels: int) -> Row:
    number = torch.zeros(1, device=bench.device)

    def call() -> None:
        for _ in range(kernels):
            number.add_(1.0)

    return _timed(bench, _captured(bench, call))


def _adam(bench: Bench, captured: bool) -> Row:
    """Measures a step of Adam on the weights of the Nature network."""
    config, facts = _config(bench, "nature", 32, "graph")
    weights = agent.make_online(config, facts)[0].weights
    adam = FusedAdam(weights, torch.ones_like(weights), 1e-4)
    call = _captured(bench, adam.step) if captured else adam.step
    return {"weights": weights.numel(), **_timed(bench, call)}


def _copies(bench: Bench, size: int) -> Row:
    """Measures copies to the device, to the host, and both with a wait between them."""
    host = torch.zeros(size, dtype=torch.uint8)
    host = host.pin_memory() if bench.on_gpu else host
    there = torch.zeros(size, dtype=torch.uint8, device=bench.device)

    def both() -> None:
        there.copy_(host, non_blocking=True)
        host.copy_(there, non_blocking=True)
        waiter(there.device)()

    return {
        **_timed(bench, lambda: there.copy_(host, non_blocking=True), "to_device_"),
        **_timed(bench, lambda: host.copy_(there, non_blocking=True), "to_host_"),
        **_timed(bench, both, "round_trip_"),
    }


def _act(network: str, lanes: int, bench: Bench) -> Row:
    """Measures a round trip: observations to the device, and greedy actions to the host."""
    config, facts = _config(bench, network, 32, "graph")
    config = config.replace(num_envs=2 if bench.dry else lanes)
    with arithmetic(config):
        calls, _ = measure_acting(config, facts, _effort(bench))
    return {"us": 1e6 / calls.rate.median, "us_min": 1e6 / calls.rate.most}


def _gather(bench: Bench, rows: int) -> Row:
    """Measures a gather of the frames of a batch, 5 per transition, from a store on the device."""
    frames = torch.empty(rows, 84 * 84, dtype=torch.uint8, device=bench.device)
    figures: Row = {"store_bytes": frames.nbytes}
    for size in BATCH_SIZES:
        index = torch.randint(0, rows, (5 * size,), device=bench.device)
        to = torch.empty(5 * size, 84 * 84, dtype=torch.uint8, device=bench.device)
        gather = partial(torch.index_select, frames, 0, index, out=to)
        figures |= _timed(bench, gather, f"batch_{size}_")
    return figures


def _sample(bench: Bench, prioritized: bool) -> Row:
    """Measures sampling of batches of stacked frames on the host."""
    facts = (_SMALL if bench.dry else _ATARI)._replace(stack=4)
    config = Config(
        device=bench.device, learner="torch", threads=1, num_envs=16, prioritized=prioritized,
        store="frames",
        buffer_size=800 if bench.dry else 50_000, total_timesteps=1 << 20,
    )  # fmt: skip
    replay = agent.make_replay(resolved(bench, config, facts), facts)
    began = time.perf_counter()
    fill_replay(replay, facts, replay.ring.rows)
    figures: Row = {"rows": len(replay), "fill_seconds": time.perf_counter() - began}
    for size in BATCH_SIZES:
        batches, *_ = measure_sampling(replay, 2 if bench.dry else size, _effort(bench))
        figures[f"batch_{size}_us"] = 1e6 / batches.rate.median
    return figures


PARTS: dict[str, Callable[[Bench], list[Cell]]] = {
    "update": update_cells, "kernels": kernel_cells, "micro": micro_cells,
}  # fmt: skip
