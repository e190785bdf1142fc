"""Devices: how a run uses the device it has, from options alone."""

import contextlib
from collections.abc import Callable

import torch

from fastdqn.config.conflicts import wants_cuda
from fastdqn.config.schema import Config
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.cnn_torsos import PictureCNN
from fastdqn.learning.graph_capture import Capture, CudaRecorder, Graphs, compiled, eager
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import QNetwork
from fastdqn.learning.precision import tf32_products
from fastdqn.learning.priority_feedback import Returns
from fastdqn.replay import Batch

# Weights in a network that a GPU updates faster than a CPU core. Ours, untuned.
LARGE_NETWORK = 1_000_000
# Updates in one graph: a launch is small beside so many. Ours, untuned.
_MOST_LAUNCHED = 8


def choose_device(config: Config, weights: int) -> tuple[str, str]:
    """(the device, the reason where there is one worth telling)."""
    if config.device != "auto":
        return config.device, ""
    large = weights >= LARGE_NETWORK and config.learner != "fused"
    if not (large or wants_cuda(config)):
        return "cpu", ""
    if not torch.cuda.is_available():
        return "cpu", f"device cpu: the network is large, {weights:,} weights, and there is no CUDA"
    return "cuda", ""


def choose_capture(config: Config, host_read: str | None = None) -> tuple[str, str]:
    """(eager, compile or graph, the reason); config's device must be resolved.

    host_read  the operation by which a torso of the user's reads the host, if it does
    """
    if config.capture != "auto":
        return config.capture, "as the config says"
    if config.device == "cpu":
        return "eager", "the CPU is launched nothing"
    if host_read is not None:
        return "eager", f"the torso reads the host, which no graph can hold: {host_read}"
    return "graph", "on CUDA launches cost more than an update's arithmetic"


def launched(config: Config, device: str, capture: str) -> Config:
    """config with what its device is asked for at once, and in which precision."""
    on_cuda = device != "cpu"
    lag, launch = config.priority_lag, config.updates_per_launch
    if lag is None:
        lag = int(on_cuda and config.prioritized)
    if launch is None:
        earned = int((config.env_batch_size or config.num_envs) / config.train_frequency)
        several = capture == "graph" and not config.prioritized
        launch = 1 << (min(max(earned, 1), _MOST_LAUNCHED).bit_length() - 1) if several else 1
    precision = config.precision
    if precision == "auto":
        precision = "tf32" if on_cuda else "float32"
    return config.replace(
        device=device, capture=capture, precision=precision, updates_per_launch=launch,
        priority_lag=lag,
    )  # fmt: skip


def make_capture(config: Config, say: Callable[[str], None] = lambda line: None) -> Capture:
    """How calls of the device are run; say takes a line where one is captured again."""
    if config.capture != "graph":
        return compiled if config.capture == "compile" else eager
    return Graphs(CudaRecorder(torch.device(config.device)), say)


def arithmetic(config: Config) -> contextlib.AbstractContextManager[None]:
    """Within, products are made as config's precision says."""
    if config.device == "cpu":
        return contextlib.nullcontext()
    return tf32_products(config.precision != "float32")


def make_staging(config: Config, batch: Batch, device: torch.device) -> tuple[Staging, Returns]:
    """What brings batches laid out as this one to the device, and priorities back."""
    lag = config.priority_lag or 0
    staging = Staging(batch, device, config.updates_per_launch or 1, lag + 1)
    return staging, Returns(staging, lag)


def prepare_learner(learner: Learner, staging: Staging) -> None:
    """Run every call once that a loop may make, and take it back. Raises UncapturableError."""
    for batches in staging.all_devices:
        count = staging.together
        while count:
            learner.prepare(*batches[:count])
            count //= 2


def place(config: Config, network: QNetwork) -> None:
    """Let a network compute as its device does best, and as config's precision says."""
    if config.device == "cpu":
        return
    # Tensor cores take pictures with the channels last.
    of_pictures = isinstance(network.torso, PictureCNN)
    network.compute_in(
        torch.bfloat16 if config.precision == "bf16" else None,
        torch.channels_last if of_pictures else torch.preserve_format,
    )
