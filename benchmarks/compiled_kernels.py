"""Counts the kernels of an update of Nature's network that inductor compiled, without a GPU.

    python benchmarks/compiled_kernels.py

The code is inductor's for the CPU. A device may have other kernels. The last line is an estimate
for one: the gradients of a convolution are two calls there, and a norm is two kernels.
"""

import argparse
from collections import Counter

import numpy as np
import torch
import torch._inductor.config as inductor
from torch.profiler import ProfilerActivity, profile

from fastdqn import Config
from fastdqn.bench.learner_speed import staged
from fastdqn.builders import agent
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.parts import NO_PARTS
from fastdqn.envs import EnvFacts
from fastdqn.learning.graph_capture import compiled
from harness import count

_ATARI = EnvFacts((4, 84, 84), np.dtype(np.uint8), 1 / 255, 6, 0)
# Operators that compute nothing, and calls of a library, whose parts are not counted.
_NONE = {"slice", "narrow", "as_strided", "view", "reshape", "expand", "empty_strided", "empty"}
_NONE |= {"to", "item", "_local_scalar_dense", "resolve_conj", "resolve_neg"}
_WHOLE = {"addmm", "mm", "convolution", "convolution_backward", "_fused_adam_"}


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--batch-size", type=count, default=32)
    calls = calls_of_update(asked.parse_args().batch_size)
    for name, number in calls.most_common():
        print(f"{number:4} {name}")
    print(f"{calls.total():4} in all; kernels of a device, estimated: {kernels(calls)}")


def kernels(calls: Counter[str]) -> int:
    return calls.total() + calls["convolution_backward"] + calls["linalg_vector_norm"]


def calls_of_update(batch_size: int) -> Counter[str]:
    """Returns the kernels and library calls of one update, by name."""
    options = {"torso": "nature", "batch_size": batch_size, "store": "rows", "learner": "torch"}
    config = Config(device="cpu", capture="eager").replace(**options)
    config = resolve(config, _ATARI, "sync", NO_PARTS).config
    learner = agent.make_learner(config, agent.make_online(config, _ATARI)[0], compiled)
    batch = staged(config, _ATARI, torch.device("cpu")).device
    with inductor.patch({"cpp.enable_kernel_profile": True}):
        learner.update(batch)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            learner.update(batch)
    calls: Counter[str] = Counter()
    for event in profiled.events() or []:
        if event.cpu_parent is None:
            _count(event, calls)
    return calls


def _count(event, calls: Counter[str]) -> bool:
    """Counts the calls within an event; returns whether it has any."""
    name = event.name.removeprefix("aten::")
    if name in _WHOLE or "cpp_fused" in name:
        calls[name] += 1
        return True
    if sum(_count(part, calls) for part in event.cpu_children):  # all of them, unlike any()
        return True
    if not event.name.startswith("aten::") or name in _NONE:
        return False
    calls[name] += 1
    return True


if __name__ == "__main__":
    main()
