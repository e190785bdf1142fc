"""fastdqn train --seeds: options, refusals, extension, failures, and studies with processes.

FASTDQN_KILLS=10 sets how often the processes of a study are killed.
"""

import contextlib
import importlib.util
import json
import os
import random
import re
import shlex
import signal
import subprocess
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

from fastdqn.checkpoints.checked_read import read_latest
from fastdqn.checkpoints.loader import load_checkpoint
from fastdqn.cli import study as command
from fastdqn.cli import study_options
from fastdqn.cli.config_file import with_file, words_of
from fastdqn.cli.options import TrainOptions
from fastdqn.cli.parser import parse
from fastdqn.config.presets import PRESETS
from fastdqn.datasets import save_npz
from fastdqn.study.study_folder import Study, held, read_study, summary_of, write_study
from helpers.command_line import ask
from helpers.report_pages import write_run
from helpers.studies import BASE, TINY, FakeScheduler, start, whole

KILLS = int(os.environ.get("FASTDQN_KILLS", "2"))
FEW = ("--total-timesteps", "2000")


@pytest.fixture
def scheduler(monkeypatch, in_an_empty_folder):
    """Replaces processes by a scheduler that writes run folders, and leaves out the figures."""
    made = FakeScheduler()
    monkeypatch.setattr(command, "LocalScheduler", lambda jobs: made)
    monkeypatch.setattr(command, "_figures", lambda folder, changed: [])
    return made


def train(*words: str) -> tuple[int, str, list[str]]:
    return ask("train", "cartpole", *words)


def refused(*words: str) -> list[str]:
    code, out, lines = train(*words)
    assert (code, out) == (2, "")
    return [line.removeprefix("error: ") for line in lines]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [each for each in folder.rglob("*") if each.is_file()]
    return {str(each): (each.read_bytes(), each.stat().st_mtime_ns) for each in files}


def test_every_variant_is_trained_with_every_seed(scheduler):
    code, out, err = train("--seeds", "1-2", "5", *FEW, "--vs", "--n-steps 3", "--vs=--noisy")
    assert (code, err) == (0, [])
    assert [job.key for job in scheduler.started][:4] == [
        "base/seed-1", "n-steps-3/seed-1", "noisy/seed-1", "base/seed-2",
    ]  # fmt: skip
    assert len(scheduler.started) == 9
    folder = Path.cwd() / "studies" / "cartpole"
    assert scheduler.started[1].words == (
        "train", "cartpole", *FEW, "--n-steps", "3", "--seed", "1",
        "--run-dir", str(folder / "n-steps-3" / "seed-1"), "--resume", "auto", "--quiet",
    )  # fmt: skip
    assert scheduler.closed
    result = json.loads((folder / "results.json").read_text())
    assert [each["last"] for each in result["variants"]] == [[10.0, 20.0, 50.0]] * 3
    assert "n-steps 3" in out
    assert f"written: {folder / 'results.json'}" in out


def test_an_option_of_a_variant_replaces_that_of_the_study(scheduler):
    vs = ("--vs", "--n-steps=5", "--vs", "--double --gamma 0.9")
    assert train("--seeds", "1", *FEW, "--n_steps", "3", "--no-double", *vs)[0] == 0
    words = [job.words[2 : job.words.index("--seed")] for job in scheduler.started]
    assert words == [
        (*FEW, "--n-steps", "3", "--no-double"),
        (*FEW, "--no-double", "--n-steps=5"),
        (*FEW, "--n-steps", "3", "--double", "--gamma", "0.9"),
    ]


def test_the_same_command_leaves_finished_runs_as_they_are(scheduler):
    words = ("--seeds", "1-2", *FEW, "--vs", "--n-steps 3")
    assert train(*words)[0] == 0
    runs = contents(Path("studies/cartpole/base")) | contents(Path("studies/cartpole/n-steps-3"))
    first = len(scheduler.started)
    code, out, _ = train(*words)
    assert (code, len(scheduler.started)) == (0, first)
    assert out.startswith("4 of 4 runs have finished before\nreturns of the last weights\n")
    after = contents(Path("studies/cartpole/base")) | contents(Path("studies/cartpole/n-steps-3"))
    assert after == runs


def test_more_seeds_and_variants_extend_a_study(scheduler):
    assert train("--seeds", "1", *FEW)[0] == 0
    assert train("--seeds", "2", *FEW)[0] == 0
    assert train("--seeds", "1", *FEW, "--vs", "--n-steps 3")[0] == 0
    assert [job.key for job in scheduler.started] == [
        "base/seed-1", "base/seed-2", "n-steps-3/seed-1", "n-steps-3/seed-2",
    ]  # fmt: skip
    study = read_study(Path("studies/cartpole"))
    assert (study.seeds, [each.name for each in study.variants]) == ((1, 2), ["base", "n-steps-3"])


def test_a_variant_in_other_words_is_the_same(scheduler):
    assert train("--seeds", "1", *FEW, "--vs", "--n-steps 3 --noisy")[0] == 0
    assert train("--seeds", "1", *FEW, "--vs=--noisy --n_steps=3")[0] == 0
    assert len(scheduler.started) == 2


def test_other_options_in_the_same_folder_are_refused_in_one_line(scheduler):
    assert train("--seeds", "1", *FEW)[0] == 0
    before = contents(Path("studies"))
    (line,) = refused("--seeds", "1-2", "--total-timesteps", "3000", "--gamma", "0.9")
    folder = Path.cwd() / "studies" / "cartpole"
    assert line == (
        f"{folder} is a study with other options: total_timesteps is 3,000 here and 2,000 in the "
        "study, gamma is 0.9 here and 0.99 in the study. Give its options, add a variant with "
        "--vs, or use another --run-dir"
    )
    code, _, (line,) = ask("train", "acrobot", "--seeds", "1", "--run-dir", str(folder))
    assert code == 2
    assert "is a study of cartpole, not of acrobot: use another --run-dir" in line
    assert contents(Path("studies")) == before


def test_all_mistakes_are_found_beforehand(in_an_empty_folder):
    lines = refused(
        "--seeds", "5-1", "x", "--seed", "3", "--jobs", "0", "--resume", "auto", "--gama", "3",
        "--num-envs", "0", "--vs", "--nsteps 3", "--vs", "--seed 3 --jobs 2", "--vs", "--gamma 2",
        "--vs", "", "--vs", "a'", "--vs", "--no-prioritized", "--vs", "--help", "--vs", "word",
    )  # fmt: skip
    assert lines == [
        "unknown option '--gama': did you mean --gamma?",
        "--seed and --seeds exclude each other: leave --seed out",
        "--resume and --seeds exclude each other: the same command continues a study",
        "jobs is 0: it must be a number from 1 to 1,024",
        "seeds is '5-1': it must be numbers and ascending ranges, such as 1-5 or 1 3 7-9",
        "seeds is 'x': it must be numbers and ascending ranges, such as 1-5 or 1 3 7-9",
        "num_envs is 0: it must be a number, at least 1, at most 1,048,576",
        "--vs \"--nsteps 3\": unknown option '--nsteps': did you mean --n-steps?",
        '--vs "--seed 3 --jobs 2": --seed cannot differ: every variant is trained with all of '
        "--seeds",
        '--vs "--seed 3 --jobs 2": --jobs is an option of the whole study',
        '--vs "--gamma 2": gamma is 2.0: it must be a number, at least 0, at most 1',
        '--vs "": it names no options. Give those that differ, such as --n-steps 3',
        '--vs "a\'": no closing quotation',
        '--vs "--no-prioritized": it has the same options as the first variant. Leave one out',
        '--vs "--help": it cannot show help. Use fastdqn train cartpole --help',
        "--vs \"word\": unexpected argument 'word': options begin with --",
    ]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--vs --noisy", "--vs needs seeds: add --seeds 1-5"),
        ("--jobs 2", "--jobs needs seeds: add --seeds 1-5"),
        ("--vs --noisy --jobs 2", "--vs and --jobs need seeds: add --seeds 1-5"),
        ("--seeds", "--seeds has no value: it must be numbers and ascending ranges, such as 1-5 or "
         "1 3 7-9"),
        ("--seeds 1 --vs", '--vs has no value: it must be options in quotes, --vs "--n-steps 3"'),
        ("--seeds 1-20000", "seeds is '1-20000': a study can have at most 10,000 runs. Use a "
         "shorter range"),
        ("--seeds 1-9000 --vs --noisy", "the study has 18,000 runs: it can have at most 10,000"),
        ("--seeds 9999999999999999999", "seed is 9999999999999999999: it must be a number, at "
         "least 0, at most 9,223,372,036,854,775,807"),
        ("--seeds 1 --jobs x", "--jobs is 'x': it must be a whole number or None"),
        ("--seeds 1 --vs --noisy --vs --noisy", '--vs "--noisy": it has the same options as --vs '
         '"--noisy". Leave one out'),
        ("--seeds 1 --vs --double", '--vs "--double": it has the same options as the first '
         "variant. Leave one out"),
        ("--seeds 1 --vs '--env-id Acrobot-v1'", '--vs "--env-id Acrobot-v1": --env-id cannot '
         "differ: returns of different environments cannot be compared"),
        ("--seeds 1 --run-dir ''", "run_dir is empty: name a folder"),
        ("--seeds 1 --run-dir run", "run_dir {here}/run is not empty: give a new or empty folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(in_an_empty_folder, words, says):
    write_run(Path("run"))
    lines = refused(*shlex.split(words))
    assert lines == [says.format(here=Path.cwd())]


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["3"], [3]), (["1-3"], [1, 2, 3]), (["1", "3", "7-9"], [1, 3, 7, 8, 9]),
        (["1,3,7-8"], [1, 3, 7, 8]), (["0", "0-1"], [0, 1]), (["4-4"], [4]),
    ],
)  # fmt: skip
def test_seeds_are_numbers_and_ranges(words, seeds):
    assert study_options.parse_seeds(words, study_options.Config()) == (seeds, [])


@pytest.mark.parametrize("word", ["", "-1", "1-", "1--3", "a", "1.0", "٣", "1 2", "2-1"])
def test_other_seeds_are_refused(word):
    seeds, lines = study_options.parse_seeds([word], study_options.Config())
    assert (seeds, len(lines)) == ([], 1)


def test_a_dry_run_lists_the_runs_and_starts_none(scheduler):
    write_run(Path("studies/cartpole/base/seed-1"))
    words = ("--seeds", "1-2", *FEW, "--vs", "--prioritized", "--dry-run")
    Path("studies/cartpole/study.json").write_text(
        json.dumps({
            "version": 1, "subject": "cartpole", "options": list(FEW), "seeds": [1],
            "variants": [{"name": "base", "options": []}],
        })
    )  # fmt: skip
    before = contents(Path("studies"))
    code, out, err = train(*words)
    assert (code, err, scheduler.started) == (0, [], [])
    first, *lines = out.splitlines()
    assert first.startswith(f"{Path.cwd()}/studies/cartpole: 2 variants, 2 seeds, 4 runs, ")
    assert lines == [
        "base/seed-1         finished",
        "prioritized/seed-1  new       sampler prioritized, prioritized yes",
        "base/seed-2         new",
        "prioritized/seed-2  new       sampler prioritized, prioritized yes",
    ]
    assert contents(Path("studies")) == before


def test_jobs_fit_into_the_memory(monkeypatch, in_an_empty_folder):
    monkeypatch.setattr(study_options, "available_bytes", lambda: 1 << 30)
    monkeypatch.setattr(study_options, "usable_cores", lambda: 8)
    words = ("--seeds", "1-8", *FEW, "--dry-run")
    assert "8 runs, 2 at a time" in train(*words)[1]
    (line,) = refused(*words, "--jobs", "4")
    assert line.startswith("jobs is 4: 4 runs need 1.")
    assert line.endswith("GiB and 1.0 GiB are available. Use --jobs 2")


def test_a_run_that_fails_twice_is_named_and_the_others_go_on(monkeypatch, scheduler):
    scheduler._fails = {"base/seed-1": 2, "base/seed-2": 1}
    code, out, err = train("--seeds", "1-3", *FEW)
    folder = Path.cwd() / "studies" / "cartpole" / "base"
    assert code == 1
    assert err == [
        "error: base/seed-1 failed in 2 attempts: env 3 died (log: "
        f"{folder / 'seed-1.log'})"
    ]  # fmt: skip
    assert "base/seed-2: failed, and is started again: env 3 died" in out
    assert summary_of(folder / "seed-3") is not None
    assert train("--seeds", "1-3", *FEW)[0] == 0  # the next start tries it again
    assert "base: 1 of 3 runs failed, and its numbers do not include them" in out


def test_quiet_prints_only_the_result(scheduler):
    code, out, err = train("--seeds", "1-2", *FEW, "--quiet")
    assert (code, err) == (0, [])
    assert out.startswith("returns of the last weights\n")


def test_a_second_process_is_refused(scheduler):
    folder = Path.cwd() / "studies" / "cartpole"
    with held(folder):
        (line,) = refused("--seeds", "1", *FEW)
    who = f"process {os.getpid()}, which is running: wait, or stop it"
    assert line == f"the study in {folder} is held by {who}"


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, scheduler):
    """Not by chmod, since root may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (line,) = refused("--seeds", "1", *FEW, "--run-dir", "my study")
    assert line == f"run_dir {Path.cwd()}/my study: {Path.cwd()} is not writable"


class Crash(BaseException):
    """Stands for a kill of the process."""


def test_a_study_that_dies_at_any_call_of_the_scheduler_is_continued(scheduler, monkeypatch):
    words = ("--seeds", "1-2", *FEW, "--vs", "--n-steps 3")
    left = 0

    def crashing(function):
        def called(*args):
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return function(*args)

        return called

    for name in ("start", "wait"):
        monkeypatch.setattr(scheduler, name, crashing(getattr(scheduler, name)))
    for number in range(1, 4):
        scheduler._running.clear()
        left = number
        with pytest.raises(Crash):
            train(*words)
    scheduler._running.clear()
    assert train(*words)[0] == 0
    names = [job.key for job in scheduler.started]
    assert len(set(names)) == 4
    assert all(summary_of(Path("studies/cartpole", name)) is not None for name in names)


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs the extra report")
@pytest.mark.skipif(not importlib.util.find_spec("jinja2"), reason="needs the extra report")
@pytest.mark.slow
def test_plot_and_report_take_the_folder_of_a_study(scheduler):
    assert train("--seeds", "1-2", *FEW, "--vs", "--log-frequency 50")[0] == 0
    code, out, err = ask("plot", "studies/cartpole", "--out", "x.svg", "--curves", "return")
    assert (code, out, err) == (0, "written: x.svg\n", [])
    picture = Path("x.svg").read_text()
    assert "base (2)" in picture
    assert "log-frequency 50 (2)" in picture
    assert ask("report", "studies/cartpole")[:2] == (0, "written: studies/cartpole/report.html\n")
    assert "log-frequency 50" in Path("studies/cartpole/report.html").read_text()


def test_a_study_without_metrics_cannot_be_plotted(scheduler, monkeypatch):
    monkeypatch.setattr("fastdqn.cli.plot_and_report._missing", lambda *packages: [])
    scheduler._fails = {"base/seed-1": 2}
    assert train("--seeds", "1", *FEW)[0] == 1
    code, _, lines = ask("plot", "studies/cartpole", "--out", "x.svg")
    assert code == 2
    assert lines == [
        "error: no run of the study studies/cartpole has metrics yet: try again later"
    ]  # fmt: skip


def test_a_missing_extra_is_a_line(monkeypatch, scheduler):
    monkeypatch.undo()
    missing = "matplotlib not installed: pip install 'fastdqn[report]'"
    monkeypatch.setattr("fastdqn.cli.plot_and_report._missing", lambda *packages: [missing])
    assert command._figures(Path("studies"), ())[0].startswith("no curves.png: ")


STEPS = 8_000
NAMES = ["base/seed-1", "base/seed-2", "base/seed-3"]
# Runs of a second, with many checkpoints. The last of two equal options counts.
WORDS = (
    "--seeds", "1-3", "--jobs", "2", "--run-dir", "my study", *TINY,
    "--total-timesteps", str(STEPS), "--train-frequency", "1", "--checkpoint-frequency", "500",
)  # fmt: skip


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_moments_is_continued(tmp_path):
    rng = random.Random(KILLS)
    for _ in range(KILLS):
        process = start(*WORDS, cwd=tmp_path)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(2.0, 6.0))
        process.kill()
        _, err = process.communicate()
        assert (process.returncode, err) in ((-signal.SIGKILL, ""), (0, ""))
    process = start(*WORDS, "--quiet", cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("returns of the last weights\n")
    whole(tmp_path / "my study", NAMES, STEPS)


@pytest.mark.slow
def test_an_interrupt_ends_the_runs_with_a_checkpoint_and_says_how_to_continue(
    tmp_path, monkeypatch
):
    """A second start refuses the folder meanwhile."""
    monkeypatch.chdir(tmp_path)
    words = ("--seeds", "1-2", "--jobs", "2", "--run-dir", "my study", *TINY)
    long = (*words[: words.index("--total-timesteps")], "--total-timesteps", "100000000")
    long += words[words.index("--total-timesteps") + 2 :]
    process = start(*long, cwd=tmp_path)
    folder = tmp_path / "my study" / "base"
    runs = [folder / "seed-1", folder / "seed-2"]
    try:
        while not all(_steps(run) for run in runs):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
                raise AssertionError(process.communicate())
        (line,) = refused(*long)
        assert f"is held by process {process.pid}, which is running" in line
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, "")
    last = out.splitlines()[-1]
    assert last.startswith("interrupted: 0 of 2 runs have finished. To continue: fastdqn train ")
    assert shlex.split(last.partition("To continue: ")[2]) == [
        "fastdqn",
        "train",
        "cartpole",
        *long,
    ]
    for run in runs:
        assert json.loads((run / "summary.json").read_text())["exit_reason"] == "interrupted"
        checkpoint = load_checkpoint(run, read_latest(run))
        assert checkpoint.steps == json.loads((run / "summary.json").read_text())["total_steps"]
        assert not (run / "lock").exists()


def _steps(run: Path) -> int:
    try:
        return len((run / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_an_environment_that_fails_twice_is_named(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import gymnasium\n\n\nclass Broken(gymnasium.Wrapper):\n    steps = 0\n\n"
        "    def step(self, action):\n        self.steps += 1\n"
        '        if self.steps > 50:\n            raise RuntimeError("the motor is hot")\n'
        "        return super().step(action)\n"
    )
    words = ("--seeds", "1", "--wrapper", "broken:Broken", "--run-dir", "s", *TINY)
    process = start(*words, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the motor is hot" in err
    assert err.startswith("error: base/seed-1 failed in 2 attempts: ")
    assert err.rstrip().endswith(f"(log: {tmp_path}/s/base/seed-1.log)")
    # The first attempt may fail before its first checkpoint is written.
    again = r"running again, (resumes from step \d+|begins again: no checkpoint after step 0)\n"
    assert re.search("base/seed-1: " + again, out)


def test_a_file_of_options_that_changes_later_changes_no_run(scheduler):
    file = Path("options.toml")
    rest = "hidden-sizes = [8, 8]\ntensorboard = false\ndouble = false\n"
    file.write_text(f"learning-rate = 1e-3\n{rest}")
    words = ("--config", "options.toml", *FEW, "--vs", "--double")
    assert train("--seeds", "1", *words)[0] == 0
    given = ("--learning-rate", "0.001", "--hidden-sizes", "8", "8", "--tensorboard", "False")
    for job in scheduler.started:
        assert set(given) <= set(job.words)
        assert not [word for word in job.words if "options.toml" in word]
    study = read_study(Path("studies/cartpole"))
    assert ("--no-double" in study.options, study.variants[1].options) == (True, ("--double",))
    assert train("--seeds", "1-2", *words)[0] == 0
    file.write_text(f"learning-rate = 1e-5\n{rest}")
    (line,) = refused("--seeds", "1-3", *words)
    assert "is a study with other options: learning_rate is 1e-05 here and 0.001 in the s" in line
    file.unlink()
    plain = ("--learning-rate", "1e-3", "--hidden-sizes", "8", "8", "--tensorboard", "False")
    assert train("--seeds", "1-3", *plain, "--no-double", *FEW)[0] == 0


def test_a_variant_is_checked_with_the_options_of_a_file_beside_other_mistakes(scheduler):
    lines = ("schedule = 'piecewise'", "steps = [5, 9]", "values = [1e-3, 1e-4]")
    Path("a.toml").write_text("".join(f"learning-rate-{line}\n" for line in lines))
    words = ("--seeds", "1", "--config", "a.toml", "--vs", "--learning-rate-values 1e-3 1e-5")
    (line,) = refused(*words, "--gamma", "2")
    assert line.startswith("gamma is 2.0")


def test_an_option_of_a_file_that_no_command_can_express_is_refused(scheduler, monkeypatch):
    Path("a.toml").write_text('env-id = "Odd-v0"\nenv-kwargs = {"a-b" = 1}')
    spec = EnvSpec("Odd-v0", lambda **kwargs: gymnasium.make("CartPole-v1"))
    monkeypatch.setitem(gymnasium.registry, "Odd-v0", spec)
    (line,) = refused("--seeds", "1", "--config", "a.toml", *FEW)
    assert line.startswith("config: --env-kwargs is 'a-b=1': it must be names with plain values")


def test_data_that_changes_while_a_study_is_trained_is_named(scheduler, monkeypatch):
    env = gymnasium.make("CartPole-v1")
    obs = [env.reset(seed=0)[0]] * 2
    episode = {"observations": obs, "actions": [0], "rewards": [1.0]}
    save_npz(Path("data.npz"), [episode] * 2_000)
    words = ("--seeds", "1-2", *FEW, "--prefill", "data.npz")
    code, out, err = train(*words)
    assert (code, err, "changed" in out) == (0, [], False)
    train_run = scheduler._train

    def trained(job):
        save_npz(Path("data.npz"), [episode] * 1_999)
        return train_run(job)

    monkeypatch.setattr(scheduler, "_train", trained)
    code, out, _ = train(*words, "--run-dir", "other")
    assert code == 0
    assert "warning: data.npz changed while the study was trained: its runs may have" in out


def test_a_study_that_names_a_file_of_options_continues(scheduler):
    write_run(Path("run"), seed=7)  # of the preset cartpole, in a study of an id
    words = ("--config", "run/config.json")
    Path("old").mkdir()
    with held(Path("old").resolve()) as place:
        write_study(place, Study("CartPole-v1", words, (BASE,), (1,)))
    command = ("train", "CartPole-v1", "--seeds", "1-2", *words, "--run-dir", "old")
    assert (ask(*command)[0], ask(*command, "--dry-run")[0]) == (0, 0)
    assert [job.words[2:4] for job in scheduler.started] == [words, words]


def test_the_options_of_a_run_are_those_of_a_study(scheduler):
    run = write_run(Path("run"), seed=7)
    assert train("--seeds", "1", "--config", f"{run}/config.json", *FEW)[0] == 0
    assert "--seed" not in read_study(Path("studies/cartpole")).options


@pytest.mark.parametrize(
    "line",
    [
        'env-kwargs = {a = "True", b = "x y", c = [1, -2.5], d = "5", e = false}',
        "v-min = -3.5", "train-frequency = '1/3'", "final-evaluation = true", "wrapper = []",
        "hidden-sizes = []", "buffer-size = 70_000", "target-network = false", "total-episodes = 5",
        "learning-rate-schedule = 'piecewise'\nlearning-rate-steps = [5, 9]\n"
        "learning-rate-values = [1e-3, 1e-5]",
    ],
)  # fmt: skip
def test_options_of_a_file_in_words_are_the_same_options(in_an_empty_folder, line):
    Path("a.toml").write_text(line)
    config, _, lines = with_file("cartpole", PRESETS["cartpole"], ["--config", "a.toml"])
    words = words_of(config, PRESETS["cartpole"])
    chosen, problems = parse(words, TrainOptions(PRESETS["cartpole"]), "")
    assert (chosen.config, problems, lines) == (config, [], [])
