"""fastdqn export: what is written gives the policy's values, for every kind of network."""

import importlib.machinery
import importlib.util
import os
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from fastdqn.builders import agent
from fastdqn.checkpoints.network_weights import save_weights
from fastdqn.checkpoints.table_weights import save_table
from fastdqn.cli import export
from helpers.command_line import ask

NETWORKS = {
    "scalar": {},
    "categorical-noisy": {"value": "categorical", "noisy": True, "dueling": False},
    "quantile": {"value": "quantile", "normalize_observation": True},
    "implicit": {"value": "implicit-quantile"},
    "nature": {"torso": "nature", "obs_shape": [2, 36, 36], "obs_dtype": "uint8"},
    "minatar": {"torso": "minatar", "obs_shape": [5, 5, 4], "obs_dtype": "bool"},
}


def write_weights(path, **changes):
    """A file of random weights, at path."""
    described = {
        "obs_shape": [4], "obs_dtype": "float32", "obs_scale": 1.0, "num_actions": 3,
        "hidden_sizes": [8], "dueling": True, "noisy": False, "noisy_sigma": 0.5, "value": "scalar",
        "num_atoms": 11, "v_min": -10.0, "v_max": 10.0, "num_quantiles": 5,
        "num_target_fractions": 4, "num_policy_fractions": 6, "torso": "mlp",
        "normalize_observation": False, "normalize_reward": False, "hidden_activation": "relu",
        "part_kwargs": {},
    } | changes  # fmt: skip
    torch.manual_seed(0)
    save_weights(path, agent.make_network(described).state_dict(), described)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_of_torch_gives_the_policy_s_values(tmp_path, name):
    path, out = write_weights(tmp_path / "policy.safetensors", **NETWORKS[name]), tmp_path / "a.pt2"
    code, said, err = ask("export", str(path), "--format", "torch", "--out", str(out))
    assert (code, err) == (0, [])
    assert f"written: {out}" in said
    policy, described = agent.load_policy(path)
    obs = np.random.default_rng(1).integers(0, 2, (7, *described["obs_shape"]))
    obs = obs.astype(described["obs_dtype"])
    found = torch.export.load(out).module()(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_allclose(found, policy.expected(obs), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(1), policy(obs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["categorical-noisy", "implicit", "nature"])
def test_a_file_of_onnx_gives_the_policy_s_values_and_stands_alone(tmp_path, name):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    path = write_weights(tmp_path / "best.safetensors", **NETWORKS[name])
    code, said, err = ask("export", str(path))
    assert (code, err) == (0, [])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["best.onnx", "best.safetensors"]
    policy, described = agent.load_policy(path)
    assert described["obs_dtype"] in said
    obs = np.random.default_rng(1).integers(0, 2, (7, *described["obs_shape"]))
    obs = obs.astype(described["obs_dtype"])
    session: Any = ReferenceEvaluator(onnx.load(tmp_path / "best.onnx"))
    (found,) = session.run(None, {"obs": obs})
    np.testing.assert_allclose(found, policy.expected(obs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "a.pt2"], "out is 'a.pt2': for format onnx it must end in .onnx"),
        (["--out", "no/a.onnx"], "out is 'no/a.onnx': give a file"),
        (["--format", "tflite"], "--format is 'tflite': it must be"),
    ],
)
def test_a_mistake_of_export_is_one_line(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    installed = importlib.machinery.ModuleSpec("onnx", None, origin="installed")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: installed if name.startswith("onnx") else find_spec(name, *more),
    )
    write_weights(tmp_path / "policy.safetensors")
    code, out, lines = ask("export", ".", *words)
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith(f"error: {says}")
    assert os.listdir(tmp_path) == ["policy.safetensors"]


def test_a_table_a_torso_of_one_s_own_and_nothing_are_one_line(tmp_path):
    digits = {name: np.ones(1, np.int64) for name in ("column", "width", "bins")}
    digits |= {"column": np.zeros(1, np.int64), "low": np.zeros(1), "high": np.ones(1)}
    save_table(tmp_path / "t.safetensors", np.zeros((1, 2), np.float32), digits, (1,))
    described = agent.load_policy(write_weights(tmp_path / "n.safetensors"))[1]
    tensors = {"x": torch.zeros(1)}
    save_weights(tmp_path / "own.safetensors", tensors, described | {"torso": "custom"})
    for name, says in (
        ("t.safetensors", "t.safetensors is a Q-table, not a network"),
        ("own.safetensors", "belong to a custom torso"),
        ("nowhere", "nowhere/policy.safetensors does not exist"),
    ):
        code, out, lines = ask("export", str(tmp_path / name), "--format", "torch")
        assert (code, out, len(lines)) == (2, "", 1)
        assert says in lines[0]


@pytest.mark.slow
def test_a_network_that_torch_cannot_export_or_gets_wrong_leaves_no_file(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "policy.safetensors")
    ask_for = ("export", str(path), "--format", "torch")

    def forward(self, obs):
        return self.network(obs) + float(obs.sum())  # depends on the data

    with monkeypatch.context() as patched:
        patched.setattr(export.ExpectedReturns, "forward", forward)
        code, _, lines = ask(*ask_for)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("error: this network cannot be exported: ")
    monkeypatch.setattr(
        export.ExpectedReturns, "forward", lambda self, obs: self.network(obs) + 1.0
    )
    assert ask(*ask_for)[2] == [
        "error: the exported network gives other values than the policy: nothing was written"
    ]
    assert os.listdir(tmp_path) == ["policy.safetensors"]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path):
    path = write_weights(tmp_path / "policy.safetensors")
    program = "import sys; from fastdqn.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "export", str(path), "--format", "torch"]
    # A process of its own: torch's writer ends the one it is in.
    limit = f"ulimit -f 4; trap '' XFSZ; exec {shlex.join(words)}"
    found = subprocess.run(["bash", "-c", limit], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (2, "")
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path / 'policy.pt2'}: ")
    assert os.listdir(tmp_path) == ["policy.safetensors"]
