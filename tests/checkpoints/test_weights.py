"""Weights files: exact, safe to load, with errors that name the mismatch."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from fastdqn.checkpoints.network_weights import (
    WeightsError,
    assign_weights,
    load_weights,
    save_weights,
)


def refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


NETWORK = {
    "obs_shape": [2], "obs_dtype": "float32", "obs_scale": 1.0, "num_actions": 2,
    "hidden_sizes": [3], "dueling": False, "torso": "mlp",
}  # fmt: skip


def save(path: Path, **changes) -> Path:
    """Writes the weights of network() with some tensors changed. None leaves one out."""
    tensors = {**network().state_dict(), **{k.replace("_", "."): v for k, v in changes.items()}}
    save_weights(path, {k: v for k, v in tensors.items() if v is not None}, NETWORK)
    return path


def test_weights_are_restored_exactly(tmp_path):
    arrays, description = load_weights(save(tmp_path / "w.safetensors"))
    assert description.items() >= NETWORK.items()
    # A file of before these came is read as written without them.
    assert (description["value"], description["noisy"]) == ("scalar", False)
    assert description["normalize_observation"] is description["normalize_reward"] is False
    other = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assign_weights(tmp_path / "w.safetensors", other, arrays)
    for name, tensor in network().state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_equal_weights_are_equal_bytes_whatever_the_order_and_strides(tmp_path):
    tensors = network().state_dict()
    save_weights(tmp_path / "a", tensors, NETWORK)
    strided = {name: tensor.t().contiguous().t() for name, tensor in reversed(tensors.items())}
    save_weights(tmp_path / "b", strided, dict(reversed(NETWORK.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _file(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _described(path: Path, description: str, dtype=torch.float32) -> None:
    safetensors.torch.save_file({"a": torch.ones(2, dtype=dtype)}, path, {"fastdqn": description})


GOOD = json.dumps({"format": 1, "network": {}})
MALFORMED = {
    "missing": (lambda path: None, "does not exist"),
    "a folder": (lambda path: path.mkdir(), "is not a regular file"),
    "empty": (lambda path: _file(path, b""), "not a readable safetensors file"),
    "zeros": (lambda path: _file(path, bytes(4096)), "not a readable safetensors file"),
    "garbage": (lambda path: _file(path, bytes(range(256)) * 9), "not a readable safetensors file"),
    "half a header": (
        lambda path: _file(path, save(path).read_bytes()[:40]),
        "not a readable safetensors file",
    ),
    "truncated": (
        lambda path: _file(path, save(path).read_bytes()[:-1]),
        "not a readable safetensors file",
    ),
    "too long": (
        lambda path: _file(path, save(path).read_bytes() + b"x"),
        "not a readable safetensors file",
    ),
    "a huge header": (
        lambda path: _file(path, (1 << 62).to_bytes(8, "little")),
        "not a readable safetensors file",
    ),
    "a pickle": (
        lambda path: _file(path, pickle.dumps({"a": 1})),
        "not a readable safetensors file",
    ),
    "a torch file": (
        lambda path: torch.save(network().state_dict(), path),
        "not a readable safetensors file",
    ),
    "of another maker": (
        lambda path: safetensors.torch.save_file({"a": torch.ones(2)}, path),
        "not written by fastdqn",
    ),
    "without JSON": (lambda path: _described(path, "{"), "not written by fastdqn"),
    "nested": (lambda path: _described(path, "[" * 100_000), "not written by fastdqn"),
    "without a network": (lambda path: _described(path, '{"format": 1}'), "not written by fastdqn"),
    "a list": (lambda path: _described(path, "[]"), "not written by fastdqn"),
    "an odd network": (lambda path: _described(path, '{"format": 1, "network": 3}'), "network"),
    "newer": (lambda path: _described(path, '{"format": 2, "network": {}}'), "format 2"),
    "a type in two lines": (
        lambda path: _file(path, save(path).read_bytes().replace(b'"F32"', b'"\\n2"', 1)),
        "not a readable safetensors file",
    ),
    "bfloat16": (
        lambda path: _described(path, GOOD, torch.bfloat16),
        "not a readable safetensors file",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_weights_file_is_a_one_line_error_that_names_it(kind, tmp_path):
    make, says = MALFORMED[kind]
    path = tmp_path / "policy.safetensors"
    make(path)
    with pytest.raises(WeightsError, match=says) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"0_weight": None}, "lacks 0.weight"),
        ({"4_bias": torch.ones(2)}, "has 4.bias, which the network does not have"),
        ({"2_bias": torch.ones(3)}, r"2.bias has shape \[3\], expected \[2\]"),
        ({"2_bias": torch.ones(2, 1)}, r"2.bias has shape \[2, 1\], expected \[2\]"),
        ({"2_bias": torch.ones(2, dtype=torch.float64)}, "2.bias is float64"),
        ({"2_bias": torch.ones(2, dtype=torch.complex64)}, "2.bias is complex64"),
    ],
)
def test_weights_that_do_not_match_are_named_and_nothing_is_changed(tmp_path, changes, says):
    path = save(tmp_path / "w.safetensors", **changes)
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = [tensor.clone() for tensor in module.state_dict().values()]
    with pytest.raises(WeightsError, match=says) as caught:
        assign_weights(path, module, load_weights(path)[0])
    assert str(path) in str(caught.value)
    assert all(map(torch.equal, before, module.state_dict().values()))


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


def test_loading_weights_never_unpickles(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.safetensors"
    bomb.write_bytes(pickle.dumps(Bomb()))
    good = save(tmp_path / "w.safetensors")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assign_weights(good, network(), load_weights(good)[0])
    with pytest.raises(WeightsError):
        load_weights(bomb)
