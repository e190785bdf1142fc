"""The export command: writes the network of a run as ONNX or torch.export program."""

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

from fastdqn.builders import agent
from fastdqn.checkpoints.network_weights import weights_path
from fastdqn.cli import parser
from fastdqn.config.schema import ConfigError
from fastdqn.files.atomic_write import WriteError
from fastdqn.files.output_files import out_problems, write_together
from fastdqn.learning.policy import Policy

_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
# ONNX operator set that torch's exporter writes without conversion.
_OPSET = 18
# Number of observations on which an exported network is checked, and the tolerances: other
# libraries sum in another order.
_TRIED, _RELATIVE, _ABSOLUTE = 5, 1e-4, 1e-4


@dataclass(frozen=True)
class ExportOptions:
    format: Literal["onnx", "torch"] = "onnx"
    """onnx: for any ONNX runtime. torch: for torch.export.load."""
    out: Path | None = None
    """Output file, .onnx or .pt2. None: next to the weights, with their name."""
    weights: Literal["best", "last"] = "best"
    """best: the best in evaluation, or the last if there was none. last: the last."""


class ExpectedReturns(nn.Module):
    """Module from observations [N, *], in their stored dtype, to expected returns float32[N, A]."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.network, self._value = policy.network, policy.value

    def forward(self, obs: Tensor) -> Tensor:
        return self._value.expected(self.network(obs))


def export_run(run: str, args: list[str]) -> str:
    """Runs `fastdqn export`. Returns what to print.

    Raises:
        ConfigError: The run, an option or the extra cannot be used, the network cannot be
            exported, or the exported network does not reproduce the policy's values.
    """
    chosen, lines = parser.parse(args, ExportOptions(), "fastdqn export RUN")
    lines += out_problems(chosen.out)
    ending = _ENDINGS[chosen.format]
    if chosen.out is not None and chosen.out.suffix.lower() != ending:
        lines.append(
            f"out is {str(chosen.out)!r}: for format {chosen.format} it must end in {ending}"
        )
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
        lines.append(f"{path} is a Q-table, not a network: its file is already plain safetensors")
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
        f"obs [{shape}] {description['obs_dtype']} to q_values [N, {policy.num_actions}], "
        f"equal to the policy's on {_TRIED} observations\nweights: {path}\nwritten: {out}"
    )


def _samples(policy: Policy, dtype: np.dtype) -> np.ndarray:
    """Returns random observations [N, *] in the dtype of the replay buffer."""
    rng = np.random.default_rng(0)
    shape = (_TRIED, *policy.obs_shape)
    if dtype == np.bool_ or np.issubdtype(dtype, np.integer):
        return rng.integers(0, 2 if dtype == np.bool_ else 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _write_torch(place: Path, policy: Policy, obs: np.ndarray) -> None:
    buffer = io.BytesIO()  # torch's own file writer aborts the process if the disk is full
    torch.export.save(_program(policy, obs), buffer)
    place.write_bytes(buffer.getvalue())
    loaded = torch.export.load(place).module()
    _compare(policy, obs, lambda batch: loaded(torch.from_numpy(batch)).detach().numpy())


def _write_onnx(place: Path, policy: Policy, obs: np.ndarray) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    program = _program(policy, obs)
    with _silenced("this network cannot be exported"):
        made = torch.onnx.export(
            program, input_names=["obs"], output_names=["q_values"], opset_version=_OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
    assert made is not None
    made.save(place, external_data=False)  # one file
    session: Any = ReferenceEvaluator(onnx.load(place))
    _compare(policy, obs, lambda batch: session.run(None, {"obs": batch})[0])


def _program(policy: Policy, obs: np.ndarray) -> torch.export.ExportedProgram:
    """Exports the network with a dynamic batch size. Raises ValueError if torch cannot."""
    module = ExpectedReturns(policy).eval()
    sizes = {"obs": {0: torch.export.Dim("N")}}
    with _silenced("this network cannot be exported"), torch.no_grad():
        return torch.export.export(module, (torch.from_numpy(obs),), dynamic_shapes=sizes)


@contextlib.contextmanager
def _silenced(problem: str) -> Iterator[None]:
    """Suppresses output and logs of exporters. Any exception becomes a one-line ValueError."""
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
    """Returns the first line of an error, since torch's errors have pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _compare(policy: Policy, obs: np.ndarray, values: Any) -> None:
    """Raises ValueError if values of a batch, or of one observation, differ from the policy's."""
    for batch in (obs, obs[:1]):
        if not np.allclose(values(batch), policy.expected(batch), _RELATIVE, _ABSOLUTE):
            raise ValueError(
                "the exported network gives other values than the policy: nothing was written"
            )
