"""host_read(): checks whether a user's module can be captured, without computing values."""

import torch
from torch import nn


def host_read(module: nn.Module, obs_shape: tuple[int, ...]) -> str | None:
    """Returns the operation that prevents the capture of a module, or None.

    Such an operation copies values to the host, or makes a shape depend on them. The check runs a
    forward pass with tensors that have a shape, float32[2, *obs_shape], but no values.
    """
    # This import takes a second and is needed for user modules on a device only.
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            module(torch.zeros(2, *obs_shape))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        return str(error.func)
    except Exception as error:  # for example numpy() of a tensor without values
        if _fails_with_numbers(module, obs_shape):
            return None
        return f"{type(error).__name__}: {str(error).split(chr(10))[0]}"
    return None


def _fails_with_numbers(module: nn.Module, obs_shape: tuple[int, ...]) -> bool:
    """Whether the module rejects such observations anyway; building the network reports that."""
    try:
        with torch.no_grad():
            module(torch.zeros(2, *obs_shape))
    except Exception:  # user code may raise anything
        return True
    return False
