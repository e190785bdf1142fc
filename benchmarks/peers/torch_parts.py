"""What the torch peers share: threads, and counts read off network and optimizer."""

import torch


def pin_threads(threads: int) -> None:
    """Torch reads OMP_NUM_THREADS, too; this holds where a library sets its own number."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(threads)


def optimizer_updates(optimizer: torch.optim.Optimizer) -> int:
    """Steps that Adam took, by its own state."""
    return int(next(iter(optimizer.state.values()))["step"])


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
