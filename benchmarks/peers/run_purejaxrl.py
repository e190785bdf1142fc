"""purejaxrl's dqn.py: environments, replay buffer and learner in one XLA program.

The program is imported from a checkout, since purejaxrl has no package.
"""

# JAX and purejaxrl may not be installed for the type checker.
# pyright: reportMissingImports=false

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import jax
import optax
from jax import lax

from peers import workload as w
from peers.catalogue import PEERS
from peers.window import Window
from peers.workload import Outcome, Task

_TARGET_FREQUENCY = {"C": w.TARGET_FREQUENCY, "D": 512}


class _Scan(Exception):
    """Carries the arguments of the training loop's scan."""


def run(task: Task, window: Window) -> Outcome:
    """Trains with the step of its training loop, scanned in two parts: warm-up and window."""
    step, state = _training_loop(task)
    first, last = (goal // task.lanes.num_envs for goal in (window.start_steps, window.stop_steps))

    def scan(state, length: int):
        return lax.scan(step, state, None, length)

    # One step beforehand: the arrays of the first state have other types than those of the next.
    state, _ = jax.jit(scan, static_argnums=1)(state, 1)
    parts = [
        jax.jit(scan, static_argnums=1).lower(state, length).compile()
        for length in (first - 1, last - first)
    ]
    window.mark("built")
    for part in parts:
        state, metrics = part(state)
        jax.block_until_ready((state, metrics))
        window.tick(int(state[0].timesteps), int(state[0].n_updates))
    trained = state[0]
    return Outcome(
        int(trained.n_updates),
        int(optax.tree_utils.tree_get(trained.opt_state, "count")),
        sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
    )


def _training_loop(task: Task) -> tuple[Any, Any]:
    """Returns the step of the training loop and its first state."""

    def scan(step, state, *_):
        raise _Scan(step, state)

    module = _dqn()
    # jax.tree_map, which the program calls, was removed from JAX in version 0.6.
    module.jax = _with(jax, tree_map=jax.tree.map, lax=_with(lax, scan=scan))
    train = module.make_train(
        {
            "NUM_ENVS": task.lanes.num_envs,
            "BUFFER_SIZE": w.BUFFER_SIZE,
            "BUFFER_BATCH_SIZE": task.workload.batch_size,
            "TOTAL_TIMESTEPS": task.total_steps,  # length of the scan, which is replaced
            "EPSILON_START": w.INITIAL_EPSILON,
            "EPSILON_FINISH": w.FINAL_EPSILON,
            "EPSILON_ANNEAL_TIME": w.EPSILON_STEPS,
            "TARGET_UPDATE_INTERVAL": _TARGET_FREQUENCY[task.workload.name],
            "LR": w.LEARNING_RATE,
            "LEARNING_STARTS": w.LEARNING_STARTS,
            "TRAINING_INTERVAL": task.workload.steps_per_update,
            "LR_LINEAR_DECAY": False,
            "GAMMA": w.GAMMA,
            "TAU": 1.0,
            "ENV_NAME": w.ENV_ID,
            "WANDB_MODE": "disabled",
        }
    )
    try:
        train(jax.random.PRNGKey(task.seed))
    except _Scan as found:
        step, state = found.args
        return step, state
    raise ValueError("purejaxrl's dqn.py does not train with jax.lax.scan")


def _dqn() -> Any:
    """Imports dqn.py of the checkout, without Weights & Biases, which it would only import."""
    sys.modules.setdefault("wandb", types.ModuleType("wandb"))
    variable = PEERS["purejaxrl"].checkout
    assert variable is not None
    path = Path(os.environ[variable], "purejaxrl", "dqn.py")
    spec = importlib.util.spec_from_file_location("purejaxrl_dqn", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def _with(module: types.ModuleType, **changes: Any) -> types.SimpleNamespace:
    """Returns the names of a module with changes, for use by one importer."""
    return types.SimpleNamespace(**{**vars(module), **changes})
