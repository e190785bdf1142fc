"""`fastdqn bench` and `fastdqn profile` as commands, and the scripts of benchmarks/."""

import csv
import errno
import io
import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from fastdqn.bench import bench
from fastdqn.bench.env_speed import available
from fastdqn.bench.formats import as_csv, as_markdown
from fastdqn.bench.repeats import Rate
from fastdqn.bench.results import Figure
from fastdqn.cli.main import main
from fastdqn.envs import EnvRecipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KEYS = (
    "env_steps_per_second", "act_calls_per_second", "replay_adds_per_second",
    "replay_samples_per_second", "learner_updates_per_second", "learner_samples_per_second",
    "train_steps_per_second", "sentence",
)  # fmt: skip
SMALL = shlex.split("--num-envs 4 --batch-size 8 --hidden-sizes 8 --seconds 0.002 --repeats 1")


@pytest.mark.slow
def test_bench_all_writes_every_rate_and_names_the_bottleneck(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastdqn.bench.env_speed.most_lanes", lambda _: 4)
    out = tmp_path / "out.jsonl"
    assert main(["bench", "all", "cartpole", *SMALL, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = {key for row in rows for key in row}
    assert found.issuperset(KEYS)
    header = rows[0]["header"]
    assert header.keys() >= {"processor", "cores", "threads", "packages", "commit"}
    assert (header["num_envs"], header["threads"]) == (4, 1)
    assert (header["seconds"], header["repeats"]) == (0.002, 1)
    assert header["command"] == shlex.join(["fastdqn", "bench", "all", "cartpole", *SMALL,
                                            "--out", str(out)])  # fmt: skip
    (said,) = [row["sentence"] for row in rows if "sentence" in row]
    assert capsys.readouterr().out.splitlines()[-1] == said
    (tried,) = [row["tried"] for row in rows if "tried" in row]
    assert any("--num-envs" in each["flags"] for each in tried)
    trains = [row for row in rows if "train_steps_per_second" in row]
    assert [row["clock"] for row in trains] == ["plain", "synchronized"]
    for row in trains:
        assert sum(row["phase_seconds"].values()) <= row["seconds"]
        assert row["startup_seconds"].keys() == {"build", "kernels"}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["env", "act", "replay", "learner", "train"])
def test_a_part_is_measured_alone(tmp_path, monkeypatch, part):
    monkeypatch.setattr("fastdqn.bench.env_speed.most_lanes", lambda _: 4)
    out = tmp_path / "out.jsonl"
    words = ["--vectorization", "sync", *SMALL, "--out", str(out)]
    assert main(["bench", part, "Taxi-v4", *words]) == 0  # masks too
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row.get("part", part) for row in rows} == {part}
    assert len(rows) > 1


@pytest.mark.slow
def test_profile_writes_a_trace_for_perfetto_and_prints_a_summary(tmp_path, capsys):
    folder = tmp_path / "profile"
    words = ["--updates", "3", "--learner", "torch", "--out", str(folder)]
    assert main(["profile", "cartpole", *words]) == 0
    trace = json.loads((folder / "trace.json").read_text())
    updates = [e for e in trace["traceEvents"] if e.get("name") == "learn" and e.get("ph") == "X"]
    assert updates
    assert all({"ts", "dur", "pid", "tid"} <= event.keys() for event in updates)
    result = json.loads((folder / "profile.json").read_text())
    assert result["calls"] == 3
    assert result["launches_per_call"] > 20
    # Online forward on obs, its backward (weights twice, inputs once but for the first layer),
    # online and target forward on next_obs: batch 64, 4-64-64-3.
    layers = (4 * 64, 64 * 64, 64 * 3)
    forward = 2 * 64 * sum(layers)
    head = 2 * 64 * 3 * 2  # the dueling head's constant product, and back
    counted = 3 * forward + forward + (forward - 2 * 64 * layers[0])
    assert result["flops_per_call"] == pytest.approx(counted + 4 * head, abs=4 * head)
    assert 0 < result["achieved_share_of_flops"] < 1
    assert 0 < result["achieved_share_of_bytes"] < 1
    bounds = ("overhead-bound", "compute-bound", "memory-bound")
    assert (
        result["verdict"] in bounds if result["attributed_share"] >= 0.9 else not result["verdict"]
    )
    said = capsys.readouterr().out
    assert (result["verdict"] or "none, since only") in said
    assert {"forward", "backward", "optimizer"} <= {row["name"] for row in result["phases"]}
    work = result["flops_per_call"] / result["least_bytes_per_call"]
    assert result["arithmetic_intensity"] == pytest.approx(work)
    peaks = result["ceiling_flops_per_second"] / result["ceiling_bytes_per_second"]
    assert result["ridge_point"] == pytest.approx(peaks)
    assert "arithmetic intensity" in said
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "trace.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("short_profiles")
def test_a_fused_update_is_one_launch_and_its_flops_are_counted(tmp_path):
    assert main(["profile", "cartpole", "--updates", "3", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "profile.json").read_text())
    assert result["learner"] == "fused"
    # How many updates came before is the clock's: a target copy may be among these three, which
    # is one launch, or two if the empty buffers are counted.
    assert result["launches_per_call"] in (1.0, pytest.approx(4 / 3), pytest.approx(5 / 3))
    assert result["flops_per_call"] > 2e6
    assert result["busy_share"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("bench", "bench needs a part"),
        ("bench lerner cartpole", "unknown part 'lerner': use one of env, act,"),
        ("bench all cartpol", "unknown preset or environment 'cartpol'"),
        ("bench env cartpole --out no/such/folder/x", "out is 'no/such/folder/x'"),
        ("bench env cartpole --vectorization envpol", "--vectorization is 'envpol'"),
        ("bench train cartpole --device cuda:9", "device is 'cuda:9'"),
        ("bench learner cartpole --against sb4", "--against is 'sb4'"),
        ("bench all cartpole --repeats 0", "repeats 0"),
        ("bench all cartpole --seconds nan", "seconds is nan"),
        ("profile cartpole", "profile needs --out DIR"),
        ("profile cartpole --out x --updates 0", "updates is 0"),
        ("profile cartpole --out README.md/x", "is not a writable folder"),
        ("profile cartpole --out x --what nothing", "--what is 'nothing'"),
    ],
)
def test_a_failed_measurement_is_one_line_and_leaves_no_files(
    words, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("a file")
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_compiling_without_a_compiler_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["bench", "learner", "cartpole", "--capture", "compile"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err


@pytest.mark.slow
def test_back_ends_that_cannot_step_an_environment_are_left_out():
    assert available(EnvRecipe("Acrobot-v1"))[:3] == ["sync", "workers", "async"]
    assert "native" in available(EnvRecipe("CartPole-v1"))
    assert "envpool" not in available(EnvRecipe("CartPole-v1", wrappers=("TimeAwareObservation",)))


def test_rows_are_appended(tmp_path):
    assert bench.append_rows(tmp_path / "x.jsonl", [{"a": 1}, {"b": float("nan")}]) == 0
    assert bench.append_rows(tmp_path / "x.jsonl", [{"c": 2}]) == 21
    assert (tmp_path / "x.jsonl").read_text() == '{"a": 1}\n{"b": null}\n{"c": 2}\n'


SWEEP = "bench act cartpole --num-envs 1 3 --seconds 0.001 --repeats 2"


def test_a_sweep_over_numbers_of_environments_is_csv_or_markdown(capsys):
    assert main([*SWEEP.split(), "--format", "csv"]) == 0
    said = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(said.out)))
    keys = [("act_calls", "1"), ("act_actions", "1"), ("act_calls", "3"), ("act_actions", "3")]
    assert [(row["what"], row["num_envs"]) for row in rows] == keys
    assert all(float(row["min"]) <= float(row["median"]) <= float(row["max"]) for row in rows)
    assert [row["unit"] for row in rows] == ["calls/s", "actions/s"] * 2
    progress = [line for line in said.err.splitlines() if line.startswith("measuring")]
    assert progress == ["measuring act, 1 environment ...", "measuring act, 3 environments ..."]
    assert "load average" in said.err
    assert main([*SWEEP.split(), "--format", "markdown"]) == 0
    calls, actions = capsys.readouterr().out.rstrip().split("\n\n**")
    assert calls.startswith("**act, act_calls (calls/s)**")
    assert actions.startswith("act, act_actions (actions/s)**")
    for table in (calls, actions):
        names, dashes, *cells = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")[2:]
        )
        assert set("".join(dashes)) == {"-", ":"}
        found = [dict(zip(names, row, strict=True)) for row in cells]
        assert [row["num_envs"] for row in found] == ["1", "3"]
        least, median, most = (
            [float(row[name].replace(",", "")) for row in found]
            for name in ("min", "median", "max")
        )
        assert least <= median <= most


def test_the_bottleneck_of_each_number_of_environments_names_that_number(capsys):
    words = "bench train cartpole --num-envs 2 3 --seconds 0.01 --repeats 2 --format json"
    assert main(words.split()) == 0
    rows = json.loads(capsys.readouterr().out)
    said = {row["num_envs"]: row["sentence"] for row in rows if "sentence" in row}
    assert list(said) == [2, 3]
    assert said[2].startswith("with 2 environments: ")


def test_only_bench_env_recommends_workers_since_bench_all_tries_them(capsys, monkeypatch):
    monkeypatch.setattr(bench, "workers_advice", lambda figures: "use --vectorization workers")
    monkeypatch.setattr(bench, "PARTS", ("env", "learner", "all"))
    monkeypatch.setattr(bench._Measuring, "_train", lambda self, with_levers: None)
    advised = {}
    for part in ("env", "all"):
        words = ["bench", part, "cartpole", "--vectorization", "sync", *SMALL, "--num-envs", "2"]
        assert main(words) == 0
        advised[part] = "use --vectorization workers" in capsys.readouterr().out
    assert advised == {"env": True, "all": False}


def test_every_column_of_a_csv_table_has_a_name_of_its_own():
    of = {"num_envs": 8, "clock": "plain"}
    figure = Figure("train", "train_steps_per_second", Rate(10.0, 9.0, 11.0, 3), of)
    row = {**of, "phase_seconds": {"env": 1.0}}
    lines = as_csv([figure], [row]).split("\n")
    assert lines == [
        "part,what,unit,num_envs,clock,median,min,max,spread,calls",
        "train,train_steps,steps/s,8,plain,10,9,11,0.2,3",
        "train,phase env,share of time,8,plain,1,,,,",
    ]


def test_numbers_of_tables_have_no_exponents():
    figure = Figure("learner", "upload_bytes_per_second", Rate(1.1034e9, 9e8, 2e9, 3), {"n": 8})
    other = Figure("env", "env_steps_per_second", Rate(15_660.4, 0.25, 2e4, 3), {"v": "a|b"})
    row = {"clock": "plain", "phase_seconds": {"env": 1.0, "learn": 3.0}}
    lines = as_csv([figure, other], [row]).split("\n")
    assert lines == [
        "part,what,unit,n,v,clock,median,min,max,spread,calls",
        "learner,upload_bytes,bytes/s,8,,,1103000000,900000000,2000000000,0.9969,3",
        "env,env_steps,steps/s,,a|b,,15660,0.25,20000,1.277,3",
        "train,phase learn,share of time,,,plain,0.75,,,,",
        "train,phase env,share of time,,,plain,0.25,,,,",
    ]
    tables = as_markdown([figure, other], [row]).split("\n\n")
    assert (
        tables[1].split("\n")[2]
        == "| 8 | 1,103,000,000 | 900,000,000 | 2,000,000,000 | 0.9969 | 3 |"
    )
    assert tables[3].split("\n")[2] == "| a\\|b | 15,660 | 0.25 | 20,000 | 1.277 | 3 |"
    assert tables[5].split("\n")[2:] == ["| plain | learn | 75.0 % |", "| plain | env | 25.0 % |"]


def test_results_as_json_have_a_header_with_the_load(capsys):
    assert main([*SWEEP.split(), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "load_average" in rows[0]["header"]
    assert [row["num_envs"] for row in rows[1:]] == [1, 1, 3, 3]


def test_results_are_appended_to_results_only(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    words = [*SWEEP.split(), "--out", str(out)]
    assert main(words) == 0
    assert "written: 5 lines" in capsys.readouterr().err
    assert main(words) == 0
    assert "appended: 5 lines" in capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert ["header" in row for row in rows] == [True, *[False] * 4] * 2
    out.write_text("my notes")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it has no JSON lines" in line
    assert out.read_text() == "my notes"


@pytest.mark.parametrize("name", ["new.jsonl", "old.jsonl"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    name, tmp_path, monkeypatch, capsys
):
    def denied(path, flags, follow=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "old.jsonl").write_text("{}\n")
    monkeypatch.setattr("fastdqn.files.append_file.open_file", denied)
    monkeypatch.setattr(bench, "bench", None)
    path = tmp_path / name
    assert main([*SWEEP.split(), "--out", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: out: cannot write {path}: Permission denied. Give another file"
    assert [each.name for each in tmp_path.iterdir()] == ["old.jsonl"]


@pytest.mark.parametrize("values", ["1 x", "1 0"])
def test_a_wrong_number_of_a_sweep_is_one_line(values, capsys):
    assert main(["bench", "act", "cartpole", "--num-envs", *values.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("words", ["bench --help", "bench env --help"])
def test_the_help_of_bench_names_its_parts(words, capsys):
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert "policy calls and actions" in said
    assert "--num-envs takes several numbers" in said
    assert "--num-envs INT [INT ...] " in said
    assert "--config FILE " in said


@pytest.fixture
def benchmark(monkeypatch):
    """Runs a script of benchmarks/ in this process, and restores the threads of torch."""

    def run(script: str, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / script), *words])
        runpy.run_path(sys.argv[0], run_name="__main__")

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "bench_env.py --envs CartPole-v1 --num-envs 2",
        "bench_env.py --part workers --envs CartPole-v1 --num-envs 2",
        "bench_env.py --part compiled --envs CartPole-v1 CompiledLift-v0 --num-envs 2",
        "bench_env.py --part peers --envs CartPole-v1 --num-envs 2",
        "bench_replay.py --rows 1000",
        "bench_kernels.py",
        "bench_learner.py --batch-sizes 8",
        "bench_train.py --sweep obs_size",
    ],
)
def test_the_benchmarks_run_and_write_their_file(tmp_path, benchmark, words):
    script, *rest = words.split()
    out = tmp_path / "out.json"
    benchmark(script, *rest, "--seconds", "0.01", "--repeats", "1", "--out", str(out))
    record = json.loads(out.read_text())
    assert record["command"].startswith(f"python benchmarks/{script}")
    assert record.get("rows") or record["sweeps"]["obs_size"]
