"""Compares an update of fastdqn with the same update as one XLA program, for each technique.

    python benchmarks/bench_xla.py --check
    python benchmarks/bench_xla.py --out benchmarks/results/xla.json
    python benchmarks/bench_xla.py --lines D3QN huber --seconds 1

Needs jax and optax. The programs are in peers/xla_update.py: JAX and optax's Adam, a scan over 32
batches, with batches and target network as arguments, and fresh noise and fractions for every
update. fastdqn's learner is the one that --learner auto selects, called once per update. Both
use one thread on one core and take turns in one process. The figures are processor time.

--check compares losses, priorities, gradients and weights after three updates with equal
weights, batches, noise and fractions, and measures nothing.
"""

# JAX may not be installed for the type checker.
# pyright: reportMissingImports=false

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import torch

from fastdqn.bench.learner_speed import learner_on, staged
from fastdqn.bench.repeats import Effort, repeat
from fastdqn.builders import agent
from fastdqn.builders.preflight import Setup, preview
from fastdqn.config.presets import PRESETS
from fastdqn.config.schema import Config, unknown_name
from fastdqn.learning.flat_parameters import FlatParameters
from harness import console, effort_of, fail, main_of, parser, save
from peers.launch import thread_settings

# Batches of a call of a program, so that the cost of the call does not count.
BATCHES = 32
# Tolerance of the comparison, relative to the largest number of an array.
TOLERANCE = 1e-4
_CHECKED_UPDATES = 3

_MLP = {"double": True, "dueling": True, "max_grad_norm": 10.0}
_IQN = {"value": "implicit-quantile", "num_fractions": 8, "num_target_fractions": 8}
# Changes of a preset by line. Munchausen replaces Double. The first line is workload C.
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "DQN": ("cartpole-cleanrl", {}),
    "D3QN": ("cartpole-cleanrl", _MLP),
    "huber": ("cartpole-cleanrl", {**_MLP, "loss": "huber"}),
    "munchausen": ("cartpole-cleanrl", {**_MLP, "double": False, "munchausen": True}),
    "noisy": ("cartpole-cleanrl", {**_MLP, "noisy": True}),
    "c51": ("cartpole-cleanrl", {**_MLP, "value": "categorical"}),
    "c51-noisy": ("cartpole-cleanrl", {**_MLP, "value": "categorical", "noisy": True}),
    "qr-dqn-32": ("cartpole-cleanrl", {**_MLP, "value": "quantile"}),
    "iqn-8-8-32": ("cartpole-cleanrl", {**_MLP, **_IQN, "num_policy_fractions": 32}),
    "iqn-8-8-8": ("cartpole-cleanrl", {**_MLP, **_IQN, "num_policy_fractions": 8}),
    "minatar": ("minatar-breakout", _MLP),
}


class Row(NamedTuple):
    """A line, with microseconds per update of both sides in each turn."""

    line: str
    learner: str
    fastdqn: list[float]
    xla: list[float]

    @property
    def ratio(self) -> float:
        """Median over turns of the time of XLA by that of fastdqn."""
        return statistics.median(x / f for x, f in zip(self.xla, self.fastdqn, strict=True))


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--lines", nargs="+", default=list(LINES), help=" ".join(LINES))
    asked.add_argument("--check", action="store_true", help="compare results instead of speed")
    args = asked.parse_args()
    for name in args.lines:
        if name not in LINES:
            fail(unknown_name("line", name, LINES))
    if args.check and args.out:
        fail("--check measures nothing: leave out --out")
    if lacking := missing():
        fail(f"{' and '.join(lacking)} not installed: pip install jax optax")
    use_one_core()
    if args.check:
        for name in args.lines:
            console.print(f"{name:12} differs by {compare(name):.1e} of the largest number")
        return
    rows = []
    for name in args.lines:
        rows.append(measure(name, effort_of(args)))
        console.print(_text(rows[-1]))
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    save(
        args, [_record(row) for row in rows], 1,
        versions=versions, settings=thread_settings(1), batches_per_call=BATCHES,
    )  # fmt: skip


def missing() -> list[str]:
    """Returns the packages that are required and not installed."""
    return [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]


def use_one_core() -> None:
    """Limits this process to one core and one thread. XLA reads the variables when it starts."""
    os.environ.update(thread_settings(1))
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def setup_of(line: str) -> Setup:
    """Returns the resolved options of a line, and the facts of its environment."""
    preset, changes = LINES[line]
    config: Config = PRESETS[preset].replace(device="cpu", threads=1, **changes)
    return preview(config)


def make_xla(setup: Setup, online: FlatParameters) -> tuple[Any, Any]:
    """Returns the program of a line and its weights, equal to those of fastdqn's network."""
    from peers import xla_update

    names = tuple(dict.fromkeys(name.rpartition(".")[0] for name in online.named_tensors()))
    update = xla_update.XlaUpdate(setup.config, setup.facts.num_actions, names)
    return update, xla_update.layers_of(arrays_of(online), update.num_outputs)


def arrays_of(flat: FlatParameters) -> dict[str, np.ndarray]:
    """Returns copies of the parameters by name."""
    return {name: tensor.numpy().copy() for name, tensor in flat.named_tensors().items()}


def batches_of(setup: Setup, count: int) -> list[Any]:
    """Returns random batches of host arrays, with their own observations."""
    rng = np.random.default_rng(1)
    batches = []
    for _ in range(count):
        (batch,) = staged(setup.config, setup.facts, torch.device("cpu")).all_devices[0]
        order = rng.permutation(len(batch.action))
        batches.append(batch._replace(
            obs=batch.obs[order].contiguous(), next_obs=batch.next_obs[order[::-1].copy()],
            reward=batch.reward[order],
            weight=torch.from_numpy(rng.uniform(0.5, 1.0, len(order)).astype(np.float32)),
        ))  # fmt: skip
    return batches


def stacked(batches: list[Any]) -> Any:
    """Returns the batches as arrays of JAX, [K, B, *]."""
    from peers.xla_update import Transitions

    return Transitions(**{
        name: np.stack([getattr(batch, name).numpy() for batch in batches])
        for name in Transitions._fields
    })  # fmt: skip


# -- speed


def measure(line: str, effort: Effort) -> Row:
    """Measures both sides of a line in turns."""
    setup = setup_of(line)
    update, _, _ = learner_on(setup.config, setup.facts)
    program = xla_call(setup)
    seen: dict[str, list[float]] = {"fastdqn": [], "xla": []}
    once = Effort(effort.seconds, 1, effort.burn_in)
    for _ in range(effort.repeats):
        for name, call in (("fastdqn", update), ("xla", program)):
            rate = repeat(call, once, time.process_time)
            seen[name].append(1e6 / rate.median)
    return Row(line, setup.config.learner, seen["fastdqn"], seen["xla"])


def xla_call(setup: Setup) -> Callable[[], int]:
    """Returns a function that takes BATCHES updates in a program and returns their number."""
    import jax

    online, _ = agent.make_online(setup.config, setup.facts)
    update, params = make_xla(setup, online)
    target = jax.tree.map(np.array, params)
    state, scan = update.init(params), update.scan()
    batches = jax.device_put(stacked(batches_of(setup, BATCHES)))
    keys = iter(jax.random.split(jax.random.key(0), 1 << 16))
    target = jax.device_put(target)

    def call() -> int:
        nonlocal state
        state, losses, _ = scan(state, target, batches, next(keys))
        losses.block_until_ready()
        return BATCHES

    return call


def _text(row: Row) -> str:
    sides = (
        f"{name} {statistics.median(each):8.1f} us [{min(each):.1f} to {max(each):.1f}]"
        for name, each in (("fastdqn", row.fastdqn), ("XLA", row.xla))
    )
    return f"{row.line:12} {'   '.join(sides)}   ratio {row.ratio:.2f}   learner {row.learner}"


def _record(row: Row) -> dict[str, Any]:
    sides = {
        f"{name}_microseconds": {
            "median": statistics.median(each), "min": min(each), "max": max(each), "turns": each,
        }
        for name, each in (("fastdqn", row.fastdqn), ("xla", row.xla))
    }  # fmt: skip
    return {"line": row.line, "learner": row.learner, "ratio": row.ratio, **sides}


# -- equality


def compare(line: str) -> float:
    """Takes three updates with both, with equal inputs.

    Returns:
        The largest difference of losses, priorities and Adam's means of the gradient, relative to
        the largest number of each array, or the largest difference of weights.

    Raises:
        ValueError: It exceeds TOLERANCE.
    """
    from peers.xla_update import PASSES, Transitions, by_action, tensors_of

    setup = setup_of(line)
    online, _ = agent.make_online(setup.config, setup.facts)
    learner = agent.make_learner(setup.config, online)
    # A target network that differs from the online network, so that a mixed-up one is detected.
    learner.target.weights.mul_(1.1)
    update, params = make_xla(setup, online)
    _, target = make_xla(setup, learner.target)
    state, outputs = update.init(params), update.num_outputs
    worst = 0.0
    for batch in batches_of(setup, _CHECKED_UPDATES):
        before = learner.loss_total()
        priority = learner.update(batch).numpy()
        draws = {}
        for name in PASSES:
            noise, fractions = getattr(learner.draws.passes, name)
            noise = None if noise is None else noise[0].numpy().copy()
            if noise is not None and outputs is not None:
                tail = (1 + setup.facts.num_actions) * outputs
                noise[-tail:] = noise[-tail:][by_action(tail, outputs)]
            draws[name] = (noise, None if fractions is None else fractions.numpy().copy())
        arrays = Transitions(**{
            name: getattr(batch, name).numpy() for name in Transitions._fields
        })  # fmt: skip
        state, loss, priorities = update.step(state, target, arrays, draws)
        pairs = [(learner.loss_total() - before, loss), (priority, priorities)]
        worst = max(worst, *(_difference(*map(np.asarray, pair)) for pair in pairs))
    own, theirs = arrays_of(online), tensors_of(state.params, outputs)
    # Not relative: Adam takes whole steps even where a gradient is nearly zero.
    worst = max(worst, *(float(np.abs(own[name] - theirs[name]).max()) for name in own))
    # The means of the gradient, read through the views of the weights.
    online.weights.copy_(learner.optimizer.tensors()["exp_avg"])
    own, theirs = arrays_of(online), tensors_of(update.moments(state), outputs)
    worst = max(worst, *(_difference(own[name], theirs[name]) for name in own))
    if not worst < TOLERANCE:
        raise ValueError(f"{line} differs by {worst:.1e}, must be below {TOLERANCE:.0e}")
    return worst


def _difference(own: np.ndarray, theirs: np.ndarray) -> float:
    assert own.shape == theirs.shape
    return float(np.abs(own - theirs).max() / max(np.abs(own).max(), 1e-12))


if __name__ == "__main__":
    main_of(main)
