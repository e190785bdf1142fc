"""Files of strangers: whatever they hold, an error names file and field, and nothing is run."""

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_parts import weights_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from load_parts import NEWEST, newest, npy

from fastdqn import Config, ConfigError
from fastdqn.record.folder import read_config
from fastdqn.record.layout import ArraySpec, CheckpointError, FileEntry, digest
from fastdqn.record.manifest import parse_manifest
from fastdqn.record.reading import read_array, read_tensors
from fastdqn.record.tables import load_table
from fastdqn.record.tree import array_specs, spec_of
from fastdqn.record.weights import WeightsError, load_weights
from fastdqn.table_config import TableConfig
from fastdqn.table_files import read_table_config

CASES = settings(
    max_examples=1_000, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
MOST_BYTES = 8 << 20

RUNS_CODE = {
    "exec", "pickle.find_class", "marshal.loads", "os.system", "os.exec", "os.posix_spawn",
    "os.fork", "subprocess.Popen", "ctypes.dlopen",
}  # fmt: skip
_seen: list[str] = []
_listening = False


def _audit(event: str, arguments: tuple) -> None:
    if _listening and event in RUNS_CODE:
        _seen.append(event)


sys.addaudithook(_audit)  # it cannot be taken away again


@pytest.fixture(autouse=True)
def memory_is_bounded():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def refusal(read, *arguments) -> str | None:
    """Why reading is refused, in one line, or None; nothing is executed meanwhile."""
    global _listening
    _seen.clear()
    _listening = True
    try:
        read(*arguments)
        said = None
    except (CheckpointError, WeightsError) as error:
        said = str(error)
    except ConfigError as error:
        said = error.lines[0]
    finally:
        _listening = False
    assert _seen == []
    if said is not None:
        assert "\n" not in said.replace("\\n", "")
        assert len(said) < 10_000
    return said


def test_code_that_runs_is_seen():
    def run():
        exec("1 + 1")
        raise WeightsError("x")

    with pytest.raises(AssertionError):
        refusal(run)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([1 << 31, 1 << 63, 1 << 200, -1])
    | st.floats() | st.text(max_size=8) | st.sampled_from(["../../etc", "a\nb", "\ud800", "inf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip
places = st.integers(0, 1 << 16)
edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat"]), places, st.binary(max_size=6)),
    min_size=1, max_size=3,
)  # fmt: skip


def edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, more in edits:
        at = place % (len(data) + 1)
        if kind == "flip":
            data = data[:at] + bytes(b ^ 255 for b in data[at : at + 1]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + more + data[at:]
        else:
            data = data[:at] + data[at : at + 40] * 3 + data[at:]
    return data


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of JSON."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found = [(tree, key) for key in keys]
    return found + [each for key in keys for each in nodes(tree[key])]


def spoiled(text: str, place: int, value: Any, drop: bool) -> Any:
    """A JSON object with one of its values, however deep, another, or gone."""
    tree = json.loads(text)
    container, key = (found := nodes(tree))[place % len(found)]
    if drop and isinstance(container, dict):
        del container[key]
    else:
        container[key] = value
    return tree


def names_field(said: str, path: Path) -> bool:
    return said.startswith(f"{path}: ") and len(said.removeprefix(f"{path}: ").split(": ")) > 1


@CASES
@given(place=places, value=junk, drop=st.booleans(), edits=st.none() | edits)
def test_manifests_with_a_right_checksum(template, place, value, drop, edits):
    path = newest(template, "manifest.json")
    _, _, rest = path.read_bytes().partition(b"\n")
    if edits is None:
        rest = json.dumps(spoiled("{" + rest.decode(), place, value, drop)).encode()[1:] + b"\n"
    else:
        rest = edited(rest, edits)
    data = b'{"blake2b": "%s",\n' % digest(rest).encode() + rest

    def read():
        array_specs(parse_manifest(data, path).state, path)

    said = refusal(read)
    assert said is None or names_field(said, path)


@CASES
@given(place=places, value=junk, drop=st.booleans(), edits=st.none() | edits)
def test_tensors_of_a_checkpoint_with_a_right_checksum(template, place, value, drop, edits):
    names = ("checkpoints", f"step-{NEWEST:012d}", "fuzzed.safetensors")
    whole = safetensors.numpy.save(weights_at(NEWEST))
    data = edited_tensors(whole, place, value, drop, edits)
    path = template.joinpath(*names)
    path.write_bytes(data)
    specs = {name: spec_of(array) for name, array in weights_at(NEWEST).items()}
    said = refusal(read_tensors, template, names, FileEntry(len(data), digest(data)), specs)
    path.unlink()
    assert said is None or names_field(said, path)


def edited_tensors(whole: bytes, place, value, drop, edits) -> bytes:
    if edits is not None:
        return edited(whole, edits)
    length = int.from_bytes(whole[:8], "little")
    header = json.dumps(spoiled(whole[8 : 8 + length].decode(), place, value, drop)).encode()
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


DESCRIBED = json.dumps({"format": 1, "network": {"obs_shape": [2], "num_actions": 3}})


@CASES
@given(place=places, value=junk, drop=st.booleans(), edits=st.none() | edits)
def test_policies_and_tables(tmp_path, place, value, drop, edits):
    path = tmp_path / "policy.safetensors"
    whole = safetensors.numpy.save(weights_at(1), {"fastdqn": DESCRIBED})
    path.write_bytes(edited_tensors(whole, place, value, drop, edits))
    for read in (load_weights, load_table):
        said = refusal(read, path)
        assert said is not None  # what is described is no network of ours
        assert said.startswith(str(path))


@CASES
@given(
    shape=st.text(max_size=12) | st.lists(st.integers(-9, 1 << 40), max_size=3).map(tuple).map(str),
    descr=st.sampled_from(["'<i4'", "'|O'", "'>i4'", "[('a', '<i4')]", "__import__('os')", "1e9"]),
    edits=st.none() | edits,
)
def test_npy_headers(template, shape, descr, edits):
    names = ("checkpoints", "fuzzed.npy")
    if edits is not None:
        data = edited(npy(np.arange(6, dtype=np.int32)), edits)
    else:
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)
    path = template.joinpath(*names)
    path.write_bytes(data)
    entry = FileEntry(len(data), digest(data), ArraySpec("int32", (6,)))
    said = refusal(read_array, template, names, entry)
    path.unlink()
    assert said is None or names_field(said, path)


@CASES
@given(place=places, value=junk, drop=st.booleans(), edits=st.none() | edits, table=st.booleans())
def test_configs(tmp_path, place, value, drop, edits, table):
    text = (TableConfig() if table else Config()).to_json()
    if edits is None:
        data = json.dumps(spoiled(text, place, value, drop)).encode()
    else:
        data = edited(text.encode(), edits)
    path = tmp_path / "config.json"
    path.write_bytes(data)
    said = refusal(read_table_config if table else read_config, tmp_path)
    assert said is None or said.startswith(str(path))
