"""minatar_scores.py: returns of studies next to published scores."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fastdqn.study.study_folder import Study, held, write_study
from helpers.studies import BASE, THREE


@pytest.fixture
def minatar(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("minatar_scores")


def write_run(folder, seed, returns, greedy):
    """Writes a run of 100 frames with an episode after every tenth."""
    folder.mkdir(parents=True)
    rows = [f"{i},{10 * i},0,{value},10" for i, value in enumerate(returns, 1)]
    (folder / "episodes.csv").write_text(
        "\n".join(["episode,steps,lane,return,length", *rows]) + "\n"
    )
    summary = {
        "seed": seed, "total_steps": 100, "wall_seconds": 2.0, "exit_reason": "budget spent",
        "eval": {"mean_return": greedy},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    config = {
        "seed": seed,
        "run_dir": str(folder),
        "n_steps": 1 if folder.parent.name == "base" else 3,
    }
    (folder / "config.json").write_text(json.dumps(config))


def made(folder, last):
    """Writes a study whose runs end with these training returns, by variant."""
    folder.mkdir(parents=True)
    with held(folder) as place:
        write_study(place, Study("minatar-breakout", (), (BASE, THREE), (1, 2)))
    for variant in (BASE, THREE):
        for seed, value in zip((1, 2), last[variant.name], strict=True):
            write_run(folder / variant.name / f"seed-{seed}", seed, [0.0] * 9 + [value], 3 * value)


def called(minatar, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["minatar_scores.py", *map(str, words)])
    minatar.main()


def test_returns_are_compared_with_the_published_ones(minatar, monkeypatch, tmp_path, capsys):
    studies, out, figure = tmp_path / "studies", tmp_path / "out.json", tmp_path / "picture.png"
    made(studies / "breakout", {"base": [4.0, 6.0], "n-steps-3": [10.0, 20.0]})
    made(studies / "freeway", {"base": [25.0, 25.0], "n-steps-3": [50.0, 50.0]})
    called(minatar, monkeypatch, studies, "--out", out, "--figure", figure)
    record = json.loads(out.read_text())
    base = record["games"]["breakout"]["variants"]["base"]
    assert base["training"]["values"] == [4.0, 6.0]
    assert base["greedy"]["mean"] == 15.0
    assert base["training"]["interval_95"] == [4.0, 6.0]
    both = record["all games, in parts of the published scores"]
    assert both["base"]["iqm"] == pytest.approx(np.mean([0.5, 0.5]))  # without 0.4 and 0.6
    assert both["n-steps 3"] == {"seeds": 2, "games": 2} | both["n-steps 3"]
    assert figure.stat().st_size > 10_000
    lines = capsys.readouterr().out
    assert "breakout: published 10" in lines
    assert "training 5.0 (4.0 to 6.0)  greedy 15.0 (12.0 to 18.0)" in lines
    assert "2 games, 2 seeds, base: IQM 0.50 of the published scores" in lines


def test_unfinished_variants_and_runs_without_episodes_are_no_error(minatar, tmp_path):
    made(tmp_path / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    for seed in (1, 2):
        (tmp_path / "breakout" / "n-steps-3" / f"seed-{seed}" / "summary.json").unlink()
    (tmp_path / "breakout" / "base" / "seed-2" / "episodes.csv").write_text(
        "episode,steps,lane,return\n"
    )
    found = {"breakout": minatar.runs_of(tmp_path / "breakout")}
    record = {"games": {"breakout": minatar.of_game("breakout", found["breakout"])}}
    assert record["games"]["breakout"]["variants"]["base"]["training"] == {"values": [4.0, None]}
    assert minatar.of_all(found) == {}
    minatar.picture(found, tmp_path / "picture.png")


def test_a_folder_without_studies_is_named(minatar, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["minatar_scores.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        minatar.main()
    assert f"{tmp_path} has no study" in capsys.readouterr().err


def test_games_may_be_collected_one_after_another(minatar, monkeypatch, tmp_path, capsys):
    made(tmp_path / "both" / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    made(tmp_path / "both" / "freeway", {"base": [25.0, 25.0], "n-steps-3": [2.0, 2.0]})
    made(tmp_path / "a" / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    made(tmp_path / "b" / "freeway", {"base": [25.0, 25.0], "n-steps-3": [2.0, 2.0]})
    called(minatar, monkeypatch, tmp_path / "both", "--out", tmp_path / "both.json")
    whole = capsys.readouterr().out
    for part in ("a", "b"):
        called(minatar, monkeypatch, tmp_path / part, "--out", tmp_path / "parts.json")
    assert capsys.readouterr().out.endswith(whole)
    parts = json.loads((tmp_path / "parts.json").read_text())
    assert parts == json.loads((tmp_path / "both.json").read_text())


def test_runs_with_other_options_are_not_joined(minatar, monkeypatch, tmp_path, capsys):
    made(tmp_path / "a" / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    made(tmp_path / "b" / "breakout", {"base": [9.0, 9.0], "n-steps-3": [1.0, 1.0]})
    config = tmp_path / "b" / "breakout" / "base" / "seed-2" / "config.json"
    config.write_text(json.dumps({"seed": 2, "n_steps": 1, "gamma": 0.5}))
    called(minatar, monkeypatch, tmp_path / "a", "--out", tmp_path / "out.json")
    before = (tmp_path / "out.json").read_bytes()
    with pytest.raises(SystemExit):
        called(minatar, monkeypatch, tmp_path / "b", "--out", tmp_path / "out.json")
    assert (
        "breakout, base: runs of this study and of --out differ in gamma" in capsys.readouterr().err
    )
    assert (tmp_path / "out.json").read_bytes() == before


def test_a_file_of_other_things_is_refused(minatar, monkeypatch, tmp_path, capsys):
    made(tmp_path / "a" / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    (tmp_path / "out.json").write_text('{"games": 3}')
    with pytest.raises(SystemExit):
        called(minatar, monkeypatch, tmp_path / "a", "--out", tmp_path / "out.json")
    assert (
        "out.json is no results file of this script (KeyError('options'))"
        in capsys.readouterr().err
    )


def changed(folder, **options):
    """Changes the config.json of a run."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))


def test_an_option_that_is_none_differs_from_none_given(minatar, monkeypatch, tmp_path):
    made(tmp_path / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    changed(tmp_path / "breakout" / "base" / "seed-2", max_grad_norm=None)
    runs = minatar.runs_of(tmp_path / "breakout")["base"]
    assert minatar.differences(runs) == ["max_grad_norm"]


def test_options_that_do_not_affect_learning_may_differ(minatar, monkeypatch, tmp_path):
    made(tmp_path / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    changed(tmp_path / "breakout" / "base" / "seed-2", tensorboard=True, workers=2)
    assert minatar.differences(minatar.runs_of(tmp_path / "breakout")["base"]) == []


def test_runs_of_other_lengths_are_not_joined(minatar, monkeypatch, tmp_path):
    made(tmp_path / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    runs = minatar.runs_of(tmp_path / "breakout")["base"]
    runs[0]["frames"], runs[1]["frames"] = 1_000_000, 1_000_015
    assert minatar.differences(runs) == []
    runs[1]["frames"] = 2_000_000
    assert minatar.differences(runs) == ["frames"]


def test_seeds_are_added_and_replaced(minatar, monkeypatch, tmp_path):
    made(tmp_path / "a" / "breakout", {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
    made(tmp_path / "b" / "breakout", {"base": [7.0, 8.0], "n-steps-3": [1.0, 1.0]})
    seed_3 = tmp_path / "b" / "breakout" / "base" / "seed-3"
    (seed_3.parent / "seed-1").rename(seed_3)
    with held(tmp_path / "b" / "breakout") as place:
        write_study(place, Study("minatar-breakout", (), (BASE, THREE), (2, 3)))
    summary = json.loads((seed_3 / "summary.json").read_text())
    (seed_3 / "summary.json").write_text(json.dumps(summary | {"seed": 3}))
    for part in ("a", "b"):
        called(minatar, monkeypatch, tmp_path / part, "--out", tmp_path / "out.json")
    base = json.loads((tmp_path / "out.json").read_text())["games"]["breakout"]["variants"]["base"]
    assert base["seeds"] == [1, 2, 3]
    assert base["training"]["values"] == [4.0, 8.0, 7.0]


def test_games_with_other_options_have_no_common_mean(minatar, monkeypatch, tmp_path, capsys):
    for game in ("breakout", "freeway"):
        made(tmp_path / game, {"base": [4.0, 6.0], "n-steps-3": [1.0, 1.0]})
        for seed in (1, 2):
            run = tmp_path / game / "base" / f"seed-{seed}"
            changed(run, env_id=game, double=game == "freeway")
    called(minatar, monkeypatch, tmp_path, "--figure", tmp_path / "picture.png")
    lines = capsys.readouterr().out
    assert "2 games, 2 seeds, n-steps 3: IQM" in lines
    assert "2 games, 2 seeds, base" not in lines
