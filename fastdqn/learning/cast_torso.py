"""CastTorso: a torso whose weights are cast to another dtype once per update."""

import copy

import torch
from torch import nn


class CastTorso:
    """A copy of a torso in another dtype, over one block of memory.

    Autocast would cast each parameter in each forward pass by a kernel of its own.

    Attributes:
        torso: The copy. Its parameters are leaves of autograd.

    Args:
        torso: A torso whose parameters follow each other in one flat tensor.
        dtype: The other dtype.
    """

    def __init__(self, torso: nn.Module, dtype: torch.dtype):
        self._parameters = list(torso.parameters())
        first, last = self._parameters[0].detach(), self._parameters[-1]
        start = int(first.storage_offset())
        size = int(last.storage_offset()) + last.numel() - start
        self._source = first.as_strided((size,), (1,), start)
        self._cast = self._source.to(dtype)
        self.torso = copy.deepcopy(torso)
        for source, copied in self.pairs():
            copied.grad = None
            copied.data = self._cast.as_strided(
                source.shape, source.stride(), int(source.storage_offset()) - start
            )

    def pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Returns each parameter with its copy."""
        return list(zip(self._parameters, self.torso.parameters(), strict=True))

    def refresh(self) -> None:
        """Casts the current weights."""
        self._cast.copy_(self._source)
