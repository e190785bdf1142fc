"""Shared by peers with torch: threads, and counts from network and optimizer."""

import torch


def pin_threads(threads: int) -> None:
    """Sets the threads of torch, also if a library has changed them."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(threads)


def optimizer_updates(optimizer: torch.optim.Optimizer) -> int:
    """Returns the number of steps in the state of Adam."""
    return int(next(iter(optimizer.state.values()))["step"])


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
