"""Export: `fastdqn export`, a run's network as a file that other programs run."""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastdqn.api import weights_path
from fastdqn.builders import agent
from fastdqn.cli import parser
from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.output_files import out_problems, write_together
from fastdqn.learning.policy import Policy

_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
# Of ONNX's operators: what its exporter writes without converting anything.
_OPSET = 18
# Observations that what was exported is tried on, and by how much values may differ: other
# libraries add up in another order.
_TRIED, _RELATIVE, _ABSOLUTE = 5, 1e-4, 1e-4


@dataclass(frozen=True)
class ExportOptions:
    format: Literal["onnx", "torch"] = "onnx"
    """onnx: for any runtime of ONNX; torch: a program for torch.export.load."""
    out: Path | None = None
    """File, .onnx or .pt2; None: beside the weights, by their name."""
    weights: Literal["best", "last"] = "best"
    """best: by evaluation while training, else the last; or last."""


class ExpectedReturns(nn.Module):
    """obs [N, *] as stored, to expected returns [N, A]: the greedy action is the largest's."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.network, self._value = policy.network, policy.value

    def forward(self, obs: Tensor) -> Tensor:
        return self._value.expected(self.network(obs))


def export_run(run: str, args: list[str]) -> str:
    """Write a run's network; returns what to print.

    Raises ConfigError where the run, an option or the extra cannot be used, where the network
    cannot be exported, or where what was exported does not give the policy's values.
    """
    chosen, lines = parser.parse(args, ExportOptions(), "fastdqn export RUN")
    lines += out_problems(chosen.out)
    ending = _ENDINGS[chosen.format]
    if chosen.out is not None and chosen.out.suffix.lower() != ending:
        lines.append(f"out is {str(chosen.out)!r}: a file of {chosen.format} ends in {ending}")
    needed = ("onnx", "onnxscript") if chosen.format == "onnx" else ()
    lacks = [name for name in needed if importlib.util.find_spec(name) is None]
    if lacks:
        lines.append(f"{' and '.join(lacks)} not installed: pip install 'fastdqn[export]'")
    try:
        path = weights_path(run, chosen.weights)
        policy, description = agent.load_policy(path)
    except (OSError, ValueError) as error:
        raise ConfigError([*lines, *str(error).split("\n")]) from None
    if not isinstance(policy, Policy):
        lines.append(f"{path} is a Q-table, not a network: its file is plain safetensors already")
    if lines:
        raise ConfigError(lines)
    assert isinstance(policy, Policy)
    out = chosen.out or path.with_suffix(ending)
    obs = _samples(policy, np.dtype(description["obs_dtype"]))
    write = {"onnx": _write_onnx, "torch": _write_torch}[chosen.format]
    try:
        write_together(out.absolute().parent, {out.name: lambda place: write(place, policy, obs)})
    except (WriteError, ValueError) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
    shape = ", ".join(map(str, ("N", *policy.obs_shape)))
    return (
        f"obs [{shape}] {description['obs_dtype']} to q_values [N, {policy.num_actions}]; the "
        f"same as the policy's on {_TRIED} observations\nweights: {path}\nwritten: {out}"
    )


def _samples(policy: Policy, dtype: np.dtype) -> np.ndarray:
    """Observations [N, *] as the replay would hold them."""
    rng = np.random.default_rng(0)
    shape = (_TRIED, *policy.obs_shape)
    if dtype == np.bool_ or np.issubdtype(dtype, np.integer):
        return rng.integers(0, 2 if dtype == np.bool_ else 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _write_torch(place: Path, policy: Policy, obs: np.ndarray) -> None:
    buffer = io.BytesIO()  # a file that cannot be written to its end aborts torch's own writer
    torch.export.save(_program(policy, obs), buffer)
    place.write_bytes(buffer.getvalue())
    loaded = torch.export.load(place).module()
    _compare(policy, obs, lambda batch: loaded(torch.from_numpy(batch)).detach().numpy())


def _write_onnx(place: Path, policy: Policy, obs: np.ndarray) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    program = _program(policy, obs)
    with _unsaid("this network cannot be exported"):
        made = torch.onnx.export(
            program, input_names=["obs"], output_names=["q_values"], opset_version=_OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
    assert made is not None
    made.save(place, external_data=False)  # one file
    session: Any = ReferenceEvaluator(onnx.load(place))
    _compare(policy, obs, lambda batch: session.run(None, {"obs": batch})[0])


def _program(policy: Policy, obs: np.ndarray) -> torch.export.ExportedProgram:
    """The network with any number of observations. Raises ValueError where torch cannot."""
    module = ExpectedReturns(policy).eval()
    sizes = {"obs": {0: torch.export.Dim("N")}}
    with _unsaid("this network cannot be exported"), torch.no_grad():
        return torch.export.export(module, (torch.from_numpy(obs),), dynamic_shapes=sizes)


@contextlib.contextmanager
def _unsaid(problem: str) -> Iterator[None]:
    """Around exporters: what they write and log stays unsaid; what they raise, of any kind, becomes
    a ValueError of one line, which begins with the problem."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    except Exception as error:
        raise ValueError(f"{problem}: {_brief(error)}") from None
    finally:
        logging.disable(before)


def _brief(error: Exception) -> str:
    """What torch says first; it goes on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _compare(policy: Policy, obs: np.ndarray, values: Any) -> None:
    """Raises ValueError where values of all observations, or of one, are not the policy's."""
    for batch in (obs, obs[:1]):
        if not np.allclose(values(batch), policy.expected(batch), _RELATIVE, _ABSOLUTE):
            raise ValueError(
                "what was exported gives other values than the policy: nothing is written"
            )
