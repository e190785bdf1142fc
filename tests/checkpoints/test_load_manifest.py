"""Malicious manifests with a valid checksum: the error names the field."""

import pytest

from helpers.checkpoints import edit_manifest, seal
from helpers.loading import NEWEST, OFFER, delete, error_of, newest, set_to


def rename(*keys, to):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[to] = manifest.pop(keys[-1])

    return change


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


ARRAY = {"array": "000000", "dtype": "float64", "shape": [5]}
MANIFESTS = {
    "newer": (set_to("format", value=2), "format: 2 is newer than this fastdqn"),
    "format": (set_to("format", value="1"), "format: '1' is unknown"),
    "no format": (delete("format"), "format: None is unknown"),
    "no steps": (delete("steps"), "'steps': is missing or unknown"),
    "more": (set_to("pickle", value=1), "'pickle': is missing or unknown"),
    "steps": (set_to("steps", value=2), "steps: 2 does not match the name of the folder"),
    "bool": (set_to("steps", value=True), "steps: is True, not an integer in"),
    "negative": (set_to("steps", value=-1), "steps: is -1, not an integer in"),
    "config": (set_to("config", value=[]), "config: is [], not an object"),
    "state": (set_to("state", value=None), "state: is None, not an object"),
    "mark": (set_to("state", "a", value={"array": "000000"}), "state.a: {'array'"),
    "twice": (set_to("state", "a", value=ARRAY), "state.a: array 000000 is used twice"),
    "in list": (set_to("state", "a", value=[ARRAY]), "state.a: is a list that contains an object"),
    "bits": (set_to("state", "a", value=1 << 128), "state.a: has more than 128 bits"),
    "depth": (set_to("state", "a", value=nested(80)), "is nested too deep"),
    "dtype": (set_to("state", "moments", "dtype", value="object"), "state.moments: dtype 'object'"),
    "shape": (set_to("state", "moments", "shape", value=[-5]), "state.moments: shape [-5]"),
    "huge": (set_to("state", "moments", "shape", value=[1 << 40]), "state.moments: shape [1099"),
    "zero": (set_to("state", "moments", "shape", value=[0, 1 << 40, 1 << 40]), "is too large"),
    "axes": (set_to("state", "moments", "shape", value=[1] * 65), "not a list of at most"),
    "weight": (set_to("weights", "../w", value=1), "weights: '../w' is not the name of a tensor"),
    "bare": (set_to("weights", "w", value=1), "weights.w: is not a dtype and a shape"),
    "file": (set_to("files", "../../a", value=1), "files: are ['../../a'"),
    "no file": (delete("files", "state.safetensors"), "files: are"),
    "size": (set_to("files", "best.safetensors", "bytes", value=-1), "files.best.safetensors.by"),
    "hash": (set_to("files", "best.safetensors", "blake2b", value="0"), "files.best.safetensors.b"),
    "segments": (set_to("segments", value={}), "segments: is {}, not a list"),
    "segment": (set_to("segments", 0, value=3), "segments[0]: is not an object of name"),
    "out": (set_to("segments", 0, "name", value="../../etc"), "segments[0].name: '../../etc'"),
    "up": (set_to("segments", 0, "name", value=".."), "segments[0].name: '..'"),
    "order": (set_to("segments", 0, "name", value="00000009"), "segments: are out of order"),
    "column": (rename("segments", 0, "files", "obs.npy", to="../o.npy"), "'../o.npy' is not"),
    "bounds": (delete("segments", 0, "files", "last.npy"), "do not contain first.npy and last.npy"),
    "total": (set_to("segments", 0, "last", value=7), "segments[0].files."),
    "lanes": (
        set_to("segments", 0, "files", "last.npy", "shape", value=[3]),
        "segments[0].files.last.npy: its shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_malicious_manifest_with_a_valid_checksum_is_an_error_naming_the_field(run, case):
    change, problem = MANIFESTS[case]
    edit_manifest(run, NEWEST, change)
    message = error_of(run)
    assert message.startswith(f"{newest(run, 'manifest.json')}: ")
    assert problem in message
    assert message.endswith(OFFER)


@pytest.mark.parametrize(
    "rest",
    [b"", b"[]}\n", b'"a": NaN}\n', b'"a": 1, "a": 2}\n', b'"a": ' + b"[" * 100_000, b"\xff}\n",
     b'"a": ' + b"9" * 5000 + b"}\n"],
)  # fmt: skip
def test_a_manifest_that_is_not_a_json_object_is_rejected(run, rest):
    seal(newest(run, "manifest.json"), rest)
    assert error_of(run).startswith(f"{newest(run, 'manifest.json')}: content: ")


def test_the_error_for_malicious_text_is_one_line(run):
    edit_manifest(run, NEWEST, set_to("state", "a\nb\x1b[2J", value={"array": 3}))
    assert r"state.a\nb\x1b[2J: " in error_of(run)
