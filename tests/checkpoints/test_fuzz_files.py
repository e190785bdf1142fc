"""Untrusted files: an error names file and field, and no code is executed."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from fastdqn import Config
from fastdqn.checkpoints.checked_read import read_array, read_tensors
from fastdqn.checkpoints.format import ArraySpec, FileEntry
from fastdqn.checkpoints.manifest import parse_manifest
from fastdqn.checkpoints.network_weights import WeightsError, load_weights, save_weights
from fastdqn.checkpoints.state_codec import array_specs, spec_of
from fastdqn.checkpoints.table_weights import load_table, save_table
from fastdqn.files.checksum import digest
from fastdqn.files.run_folder import read_config
from fastdqn.tabular.config import TableConfig
from fastdqn.tabular.files import read_table_config
from helpers.checkpoints import weights_at
from helpers.fuzz import (
    JUNK,
    MOST_BYTES,
    edited,
    many_cases,
    memory_is_bounded,
    refusal,
    spoiled,
)
from helpers.loading import NEWEST, newest, npy

__all__ = ["memory_is_bounded"]  # a fixture of every test here


def test_memory_beyond_the_limit_cannot_be_allocated():
    with pytest.raises(MemoryError):  # one alone may fit into what the process has freed before
        _ = [np.zeros(2 * MOST_BYTES, np.uint8) for _ in range(64)]


def test_executed_code_is_detected():
    def run():
        exec("1 + 1")
        raise WeightsError("x")

    with pytest.raises(AssertionError):
        refusal(run)


def names_field(said: str, path: Path) -> bool:
    return said.startswith(f"{path}: ") and len(said.removeprefix(f"{path}: ").split(": ")) > 1


@pytest.mark.slow
@many_cases
def test_manifests_with_a_valid_checksum(template, seed):
    chance = random.Random(seed)
    path = newest(template, "manifest.json")
    _, _, rest = path.read_bytes().partition(b"\n")
    if seed % 3:
        rest = spoiled("{" + rest.decode(), chance)[1:] + b"\n"
    else:
        rest = edited(rest, chance)
    data = b'{"blake2b": "%s",\n' % digest(rest).encode() + rest

    def read():
        array_specs(parse_manifest(data, path).state, path)

    said = refusal(read)
    assert said is None or names_field(said, path)


@pytest.mark.slow
@many_cases
def test_tensors_of_a_checkpoint_with_a_valid_checksum(template, seed):
    names = ("checkpoints", f"step-{NEWEST:012d}", "fuzzed.safetensors")
    data = edited_tensors(safetensors.numpy.save(weights_at(NEWEST)), seed)
    path = template.joinpath(*names)
    path.write_bytes(data)
    specs = {name: spec_of(array) for name, array in weights_at(NEWEST).items()}
    said = refusal(read_tensors, template, names, FileEntry(len(data), digest(data)), specs)
    path.unlink()
    assert said is None or names_field(said, path)


def edited_tensors(whole: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    if seed % 3 == 0:
        return edited(whole, chance)
    length = int.from_bytes(whole[:8], "little")
    header = spoiled(whole[8 : 8 + length].decode(), chance)
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Readable files: the weights of a network, and a Q-table."""
    folder = tmp_path_factory.mktemp("policies")
    save_weights(folder / "network", {"w": torch.zeros(2, 3)}, NETWORK)
    digits = {name: np.ones(1, dtype) for name, dtype in DIGITS.items()}
    digits["column"][0], digits["bins"][0], digits["low"][0] = 0, 4, 0.0
    save_table(folder / "table", np.zeros((4, 2), np.float32), digits, (1,))
    load_weights(folder / "network")
    load_table(folder / "table")
    return folder


NETWORK = {
    "obs_shape": [2], "obs_dtype": "float32", "obs_scale": 1.0, "num_actions": 3,
    "hidden_sizes": [4], "dueling": True, "torso": "mlp",
}  # fmt: skip
DIGITS = {
    "column": np.int64, "width": np.int64, "bins": np.int64, "low": np.float64, "high": np.float64,
}  # fmt: skip


@pytest.mark.slow
@many_cases
def test_policies_and_tables(policies, seed):
    name, read = (("network", load_weights), ("table", load_table))[seed % 2]
    whole = (policies / name).read_bytes()
    if seed % 5 < 2:
        data = edited_tensors(whole, seed)
    else:  # what the file says of itself
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        told = spoiled(header["__metadata__"]["fastdqn"], random.Random(seed))
        header["__metadata__"]["fastdqn"] = told.decode()
        told = json.dumps(header).encode()
        data = len(told).to_bytes(8, "little") + told + whole[8 + length :]
    path = policies / "fuzzed.safetensors"
    path.write_bytes(data)
    said = refusal(read, path)
    assert said is None or said.startswith(str(path))


@pytest.mark.slow
@many_cases
def test_npy_headers(template, seed):
    chance = random.Random(seed)
    names = ("checkpoints", "fuzzed.npy")
    if seed % 2:
        data = edited(npy(np.arange(6, dtype=np.int32)), chance)
    else:
        shape = chance.choice([(6,), (1 << 40,), (-1,), "(6", "(6, 6)", "__import__('os')", (0,)])
        descr = chance.choice(["'<i4'", "'|O'", "'>i4'", "[('a', '<i4')]", "open('x')", "1e9"])
        text = f"{{'descr': {descr}, 'fortran_order': {chance.choice(JUNK)}, 'shape': {shape}, }}\n"
        head = text.encode(errors="replace")
        data = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(24)
    path = template.joinpath(*names)
    path.write_bytes(data)
    entry = FileEntry(len(data), digest(data), ArraySpec("int32", (6,)))
    said = refusal(read_array, template, names, entry)
    path.unlink()
    assert said is None or names_field(said, path)


@pytest.mark.slow
@many_cases
def test_configs(tmp_path, seed):
    table = seed % 2 == 0
    text = (TableConfig() if table else Config()).to_json()
    chance = random.Random(seed)
    data = edited(text.encode(), chance) if seed % 3 == 0 else spoiled(text, chance)
    path = tmp_path / "config.json"
    path.write_bytes(data)
    said = refusal(read_table_config if table else read_config, tmp_path)
    assert said is None or said.startswith(str(path))
