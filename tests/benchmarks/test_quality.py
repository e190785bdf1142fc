"""quality.py: which presets have become worse, and how likely that is by chance."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("quality")


def test_the_chance_is_that_of_a_permutation(quality):
    before, now = [1.0, 2.0, 3.0, 4.0], [0.0, 0.5]
    assert quality.chance("acrobot", before, now) == pytest.approx(1 / 15)  # the two smallest
    assert quality.chance("cartpole-episodes", before, now) == 1.0  # fewer episodes are better
    assert quality.chance("acrobot", before, [4.0, 4.0]) == 1.0


def test_equal_samples_seldom_alarm(quality):
    rng = np.random.default_rng(0)
    alarms = [
        quality.chance("acrobot", rng.normal(size=10), rng.normal(size=3)) < quality.ALARM
        for _ in range(200)
    ]
    assert np.mean(alarms) < 0.04


@pytest.fixture
def returns(quality, monkeypatch):
    """Replaces training: the values of a run by its preset and seed."""
    given = {}

    def run_seed(preset, seed, num_envs, extra):
        value = given.get(preset, 100.0) + seed % 10
        return {"best_return": value, "episodes": value, "solved": given.get("solved", {})}

    monkeypatch.setattr(quality, "run_seed", run_seed)
    return given


def ask(quality, monkeypatch, tmp_path, *words):
    monkeypatch.setattr(sys, "argv", ["quality.py", "--out", str(tmp_path / "q.json"), *words])
    with pytest.raises(SystemExit) as end:
        quality.main()
    return end.value.code


def test_a_preset_that_fell_is_named(quality, monkeypatch, tmp_path, returns, capsys):
    assert ask(quality, monkeypatch, tmp_path, "--store") == 0
    stored = json.loads((tmp_path / "q.json").read_text())
    assert stored.keys() == quality.PRESETS.keys()
    assert stored["acrobot"]["values"] == [100.0 + seed % 10 for seed in range(1, 11)]
    capsys.readouterr()
    assert ask(quality, monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out.count("as before") == 5
    returns |= {"acrobot": 50.0, "cartpole-episodes": 50.0}
    assert ask(quality, monkeypatch, tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "WORSE" in line]
    assert line.startswith("acrobot: WORSE. best_return 52 (51 to 53, 3 seeds), stored 104.5 (")
    assert line.endswith("change -52.5; by chance as bad or worse: 0.3%")
    returns |= {"acrobot": 100.0, "solved": None}  # few episodes, but never solved
    assert ask(quality, monkeypatch, tmp_path) == 1
    assert "cartpole-episodes: WORSE. episodes 800 " in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(quality, monkeypatch, tmp_path, returns, capsys):
    def line(*words):
        assert ask(quality, monkeypatch, tmp_path, "--presets", "acrobot", *words) == 2
        return capsys.readouterr().err

    assert "q.json: no acrobot: use --store first" in line()
    assert ask(quality, monkeypatch, tmp_path, "--store") == 0
    assert "seed 10 of acrobot was stored: use others" in line("--seeds", "10-12")
    assert "1 seeds of acrobot are too few to find a loss: use more" in line("--seeds", "11")
    assert "40 seeds are too many: use fewer" in line("--seeds", "11-50")
    assert "9-8 has no seeds" in line("--seeds", "9-8")
    assert "a must be seeds such as 101-103" in line("--seeds", "a")
    assert "give a file in an existing folder" in line("--out", str(tmp_path / "none" / "q.json"))
    for text in ("{", "[]", '{"acrobot": 7}', '{"acrobot": {"measure": "best_return"}}'):
        (tmp_path / "damaged.json").write_text(text)
        assert "is no file of stored results" in line("--out", str(tmp_path / "damaged.json"))
    monkeypatch.setitem(
        quality.PRESETS, "acrobot", quality.Measured("best_return", 1, ("--tau", "1"))
    )
    assert "acrobot was stored with other options: use --store again" in line()


def test_every_subset_has_the_same_weight(quality):
    values = [3.0, 1.0, 2.0, 5.0]
    found = [
        quality.chance(
            "acrobot", [values[i] for i in range(4) if i not in now], [values[i] for i in now]
        )
        for now in itertools.combinations(range(4), 2)
    ]
    assert sorted(found) == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
