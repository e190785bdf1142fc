"""Study folders: names, study.json, extension, what is refused, and the lock."""

import json
import os

import pytest

from fastdqn.config.schema import ConfigError
from fastdqn.study.study_folder import (
    FILE,
    Study,
    Variant,
    default_folder,
    held,
    read_study,
    study_problem,
    write_study,
)
from helpers.report_pages import write_run
from helpers.studies import BASE, THREE

STUDY = Study("cartpole", ("--gamma", "0.9"), (BASE, THREE), (1, 2))


def names(*options: str) -> list[str]:
    study = Study("cartpole", (), (BASE,), (1,))
    return [each.name for each in study.extended([tuple(o.split()) for o in options], ()).variants]


def test_a_variant_is_named_by_its_options():
    assert names("--n-steps 3", "--no-double", "--value=quantile --num-quantiles 8") == [
        "base", "n-steps-3", "no-double", "value-quantile-num-quantiles-8",
    ]  # fmt: skip
    assert names("--torso ../../x:Y", "--env-kwargs size=8 a=é") == [
        "base", "torso-..-..-x-Y", "env-kwargs-size-8-a",
    ]  # fmt: skip


def test_names_do_not_collide_whatever_the_case_of_their_letters():
    found = names("--torso a:B", "--torso a/B", "--torso A.b", "--torso a-b")
    assert found == ["base", "torso-a-B", "torso-a-B-2", "torso-A.b", "torso-a-b-3"]
    long = names("--torso " + "x" * 300, "--torso " + "x" * 301)
    assert len(set(long)) == 3
    assert max(map(len, long)) < 100


def test_a_label_has_no_dashes():
    assert [each.label for each in (BASE, THREE, Variant("x", ("--gamma=0.9",)))] == [
        "base", "n-steps 3", "gamma 0.9",
    ]  # fmt: skip


def test_more_seeds_and_variants_extend_a_study_and_equal_ones_do_not():
    same = STUDY.extended([(), ("--n-steps", "3")], [2, 1])
    assert same == STUDY
    more = STUDY.extended([("--noisy",)], [2, 7])
    assert [each.name for each in more.variants] == ["base", "n-steps-3", "noisy"]
    assert more.seeds == (1, 2, 7)


def test_runs_are_listed_seed_by_seed(tmp_path):
    runs = STUDY.runs(tmp_path)
    assert [run.name for run in runs] == [
        "base/seed-1", "n-steps-3/seed-1", "base/seed-2", "n-steps-3/seed-2",
    ]  # fmt: skip
    assert runs[0].folder == tmp_path / "base" / "seed-1"
    assert runs[0].log == tmp_path / "base" / "seed-1.log"


def test_what_is_written_is_read(tmp_path):
    write_study(tmp_path, STUDY)
    assert read_study(tmp_path) == STUDY
    before = (tmp_path / FILE).stat().st_mtime_ns
    write_study(tmp_path, STUDY)
    assert (tmp_path / FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "its version is 2, this program reads 1"),
        ({"seeds": []}, "it has no subject, variants or seeds"),
        ({"seeds": [1, True]}, "True is not a seed"),
        ({"seeds": [1, 1]}, "a variant or a seed occurs twice"),
        ({"options": "--x"}, "'--x' is not a list of words"),
        ({"variants": [{"name": "../x", "options": []}]}, "'../x' is not the name of a variant"),
        ({"variants": [{"name": "..", "options": []}]}, "'..' is not the name of a variant"),
        ({"variants": [{"name": "x"}]}, "KeyError: 'options'"),
        ({"variants": 3}, "'int' object is not iterable"),
    ],
)
def test_a_file_that_is_not_of_a_study_is_one_line(tmp_path, change, says):
    found = json.loads(STUDY.to_json()) | change
    (tmp_path / FILE).write_text(json.dumps(found))
    with pytest.raises(ConfigError) as error:
        read_study(tmp_path)
    (line,) = error.value.lines
    assert line == f"{tmp_path / FILE} is not the file of a study ({says}): use another --run-dir"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_text_that_is_not_json_is_one_line(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="is not the file of a study"):
        read_study(tmp_path)


def test_a_study_starts_in_a_new_or_an_empty_folder_or_where_it_was_killed(tmp_path):
    assert study_problem(tmp_path / "new" / "x y") is None
    assert study_problem(tmp_path) is None
    (tmp_path / "lock").touch()
    (tmp_path / ".tmp-study.json").touch()
    assert study_problem(tmp_path) is None
    write_study(tmp_path, STUDY)
    (tmp_path / "notes.txt").touch()
    assert study_problem(tmp_path) is None


def test_another_folder_is_refused(tmp_path):
    write_run(tmp_path / "run")
    assert "is not empty" in str(study_problem(tmp_path / "run"))
    (tmp_path / "file").touch()
    assert "is a file" in str(study_problem(tmp_path / "file"))
    assert "is a file" in str(study_problem(tmp_path / "file" / "below"))
    assert "null byte" in str(study_problem(tmp_path / "a\0b"))


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, is_there):
    """Not by chmod, since root may write anywhere."""
    if is_there:
        write_study(tmp_path, STUDY)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert study_problem(tmp_path) == f"run_dir {tmp_path} is not writable"
    inner = tmp_path / "new"
    assert study_problem(inner) == f"run_dir {inner}: {tmp_path} is not writable"


def test_a_second_holder_is_refused_and_an_empty_folder_removed(tmp_path):
    folder = tmp_path / "a b" / "study"
    with held(folder), pytest.raises(ConfigError) as error, held(folder):
        pass
    (line,) = error.value.lines
    who = f"process {os.getpid()}, which is running: wait, or stop it"
    assert line == f"the study in {folder} is held by {who}"
    assert not (tmp_path / "a b").exists()


def test_the_folder_of_a_study_that_has_begun_stays(tmp_path):
    with held(tmp_path / "study") as place:
        write_study(place, STUDY)
    assert os.listdir(tmp_path / "study") == [FILE]


def test_the_default_folder_has_the_name_of_the_preset_or_the_id():
    assert default_folder("cartpole") == "studies/cartpole"
    assert default_folder("ALE/Pong-v5") == "studies/ALE-Pong-v5"
    assert default_folder("my_envs:Corridor-v0") == "studies/my_envs-Corridor-v0"
    assert default_folder("..") == "studies/variant"
