"""Probe: whether a module of anyone's can be captured, asked without computing anything."""

import torch
from torch import nn


def host_read(module: nn.Module, obs_shape: tuple[int, ...]) -> str | None:
    """The operation by which a module reads numbers back to the host, or lets a shape depend on
    them: no graph can hold that. None where there is none.

    Its forward pass is made with tensors that have shapes and no numbers: [2, *obs_shape] float32.
    """
    # A second of imports, that only modules of a user's on a device need.
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
    except Exception as error:  # numpy() of what has no numbers, or worse
        if _fails_with_numbers(module, obs_shape):
            return None
        return f"{type(error).__name__}: {str(error).split(chr(10))[0]}"
    return None


def _fails_with_numbers(module: nn.Module, obs_shape: tuple[int, ...]) -> bool:
    """Whether it does not take such observations at all, which whoever builds with it tells."""
    try:
        with torch.no_grad():
            module(torch.zeros(2, *obs_shape))
    except Exception:  # a module of anyone's
        return True
    return False
