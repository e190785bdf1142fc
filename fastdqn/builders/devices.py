"""Devices: chooses device, graph capture and precision from options."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from fastdqn.config.conflicts import is_compiled, is_graph, wants_cuda
from fastdqn.config.schema import Config
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.cnn_torsos import PictureCNN
from fastdqn.learning.cuda_streams import CudaBranches
from fastdqn.learning.graph_capture import Capture, CudaRecorder, Graphs, compiled, eager
from fastdqn.learning.learner import Learner
from fastdqn.learning.networks import QNetwork
from fastdqn.learning.precision import tf32_products
from fastdqn.learning.priority_feedback import PriorityFeedback
from fastdqn.replay import Batch

# Number of weights from which a GPU is used by default. Not tuned.
LARGE_NETWORK = 1_000_000
# Numbers of an observation from which the replay is on the device by default. Not tuned.
PICTURE_SIZE = 1024
# Largest share of the free memory of a device that the replay takes by default.
DEVICE_SHARE = 0.7
# Maximum updates per graph by default. Not tuned.
_MOST_LAUNCHED = 8


def choose_device(config: Config, weights: int) -> tuple[str, str]:
    """Returns (the device, a remark or an empty string)."""
    if config.device != "auto":
        return config.device, ""
    large = weights >= LARGE_NETWORK and config.learner != "fused"
    if not (large or wants_cuda(config)):
        return "cpu", ""
    if not torch.cuda.is_available():
        return (
            "cpu",
            f"device cpu: the network is large, {weights:,} weights, and CUDA is not available",
        )
    return "cuda", ""


def choose_capture(config: Config, device: str, host_read: str | None = None) -> tuple[str, str]:
    """Returns (eager, compile, graph or compile-graph, the reason).

    Args:
        config: The options.
        device: The resolved device.
        host_read: The operation by which a custom torso reads from the host, or None.
    """
    if config.capture != "auto":
        return config.capture, "as configured"
    if device == "cpu":
        return "eager", "the CPU has no launches to save"
    if config.ranks > 1:
        return "eager", "graphs are not tested with the exchange of gradients between ranks"
    if host_read is not None:
        return "eager", f"the torso reads from the host, which a graph cannot capture: {host_read}"
    return "graph", "on CUDA, launches cost more time than the arithmetic of an update"


def choose_store(
    config: Config, device: str, frames: bool, obs_size: int, nbytes: Callable[[], int]
) -> str:
    """Returns what the replay stores, resolved: rows, frames or device.

    Args:
        config: The options.
        device: The resolved device.
        frames: Whether a row has the newest frame only.
        obs_size: Numbers of an observation.
        nbytes: Returns the bytes of all observations on the device, and of the learner.
    """
    if config.store != "auto":
        return config.store
    if device != "cpu" and config.replay and obs_size >= PICTURE_SIZE:
        free = torch.cuda.mem_get_info(torch.device(device))[0]
        if nbytes() <= DEVICE_SHARE * free:
            return "device"
    return "frames" if frames else "rows"


def most_launched(store: str, obs_size: int) -> int:
    """Returns the most updates per graph by default.

    A graph waits until the host has gathered the pictures of all its updates, unless the replay is
    on the device.
    """
    return 2 if obs_size >= PICTURE_SIZE and store != "device" else _MOST_LAUNCHED


def launched(
    config: Config, device: str, capture: str, wants_priorities: bool, most: int = _MOST_LAUNCHED
) -> dict[str, Any]:
    """Returns device, capture, precision, launch size and priority lag, resolved.

    Args:
        config: The options.
        device: The resolved device.
        capture: The resolved capture.
        wants_priorities: Whether the sampler learns from priorities.
        most: The most updates per graph, if the option does not say how many.
    """
    on_cuda = device != "cpu"
    lag, launch = config.priority_lag, config.updates_per_launch
    if lag is None:
        lag = int(on_cuda and wants_priorities)
    if launch is None:
        earned = int((config.env_batch_size or config.num_envs) / config.train_frequency)
        several = is_graph(capture) and not wants_priorities
        launch = 1 << (min(max(earned, 1), most).bit_length() - 1) if several else 1
    precision = config.precision
    if precision == "auto":
        precision = "tf32" if on_cuda else "float32"
    return {
        "device": device, "capture": capture, "precision": precision,
        "updates_per_launch": launch, "priority_lag": lag,
    }  # fmt: skip


def make_capture(config: Config, say: Callable[[str], None] = lambda line: None) -> Capture:
    """Returns how device calls run. say prints a line when one is captured again."""
    pieces = compiled if is_compiled(config.capture) else eager
    if not is_graph(config.capture):
        return pieces
    device = torch.device(config.device)
    if pieces is compiled:  # the compiler orders the passes itself
        return Graphs(CudaRecorder(device), say, pieces=compiled)
    return Graphs(CudaRecorder(device), say, CudaBranches(device))


def arithmetic(config: Config) -> contextlib.AbstractContextManager[None]:
    """Within, matrix products use the precision of the options."""
    if config.device == "cpu":
        return contextlib.nullcontext()
    return tf32_products(config.precision != "float32")


def make_staging(
    config: Config, batch: Batch, device: torch.device
) -> tuple[Staging, PriorityFeedback]:
    """Returns the staging of batches to the device, and the priority feedback."""
    lag = config.priority_lag or 0
    staging = Staging(batch, device, config.updates_per_launch or 1, lag + 1)
    return staging, PriorityFeedback(staging, lag)


def prepare_learner(learner: Learner, staging: Staging) -> None:
    """Runs each call of the loop once and undoes it. Raises UncapturableError."""
    for batches in staging.all_devices:
        count = staging.together
        while count:
            learner.prepare(*batches[:count])
            count //= 2


def place(config: Config, network: QNetwork) -> None:
    """Sets precision and memory layout of a network for its device."""
    if config.device == "cpu":
        return
    # Tensor cores need images in channels-last layout.
    of_pictures = isinstance(network.torso, PictureCNN)
    network.compute_in(
        torch.bfloat16 if config.precision == "bf16" else None,
        torch.channels_last if of_pictures else torch.preserve_format,
    )
