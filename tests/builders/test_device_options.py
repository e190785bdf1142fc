"""Device options: auto, rejected combinations, and runs with captured updates."""

import pytest
import torch
from torch import nn

import fastdqn
from fastdqn import Config
from fastdqn.builders import build, devices, preflight
from fastdqn.builders.auto_options import resolve
from fastdqn.builders.memory_estimate import device_bytes, device_problems
from fastdqn.builders.network_size import measure_network
from fastdqn.builders.parts import UserParts
from fastdqn.config.derived_facts import residual_phases
from fastdqn.envs import EnvFacts
from fastdqn.learning.cuda_streams import one_by_one
from fastdqn.learning.graph_capture import UncapturableError
from fastdqn.logging.console import Silent
from helpers.capture import FACTS, PICTURES, Reads
from helpers.graphs import TracedRecorder
from helpers.loop import run_loop, small
from helpers.setups import resolved, setup_of

LARGE, SMALL = 2_000_000, 1_000


@pytest.fixture
def cuda(monkeypatch):
    """Pretends that there is a CUDA device, without using it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def told(weights=LARGE, torso=None, **options) -> list:
    config = resolved(Config().replace(**options), FACTS, own=UserParts(torso), weights=weights)
    names = ("device", "capture", "precision", "updates_per_launch", "priority_lag")
    return [getattr(config, name) for name in names]


def test_on_the_cpu_auto_is_eager_in_float32_one_by_one_with_priorities_at_once():
    assert told(device="cpu") == ["cpu", "eager", "float32", 1, 0]
    assert told(device="cpu", prioritized=True) == ["cpu", "eager", "float32", 1, 0]


def test_auto_takes_a_device_for_a_large_network_or_where_an_option_needs_one(cuda):
    assert told()[:3] == ["cuda", "graph", "tf32"]
    assert told(SMALL)[:3] == ["cpu", "eager", "float32"]
    assert told(SMALL, capture="graph")[:2] == ["cuda", "graph"]
    assert told(SMALL, precision="bf16")[:3] == ["cuda", "graph", "bf16"]
    assert told(capture="compile", precision="float32")[:3] == ["cuda", "compile", "float32"]


@pytest.mark.parametrize(
    ("options", "launch", "lag"),
    [
        ({"num_envs": 64, "train_frequency": 4}, 8, 0),
        ({"num_envs": 16, "train_frequency": 4}, 4, 0),
        ({"num_envs": 28, "train_frequency": 4}, 4, 0),  # a power of two
        ({"num_envs": 2, "train_frequency": 4}, 1, 0),
        ({"num_envs": 64, "env_batch_size": 8, "train_frequency": 4}, 2, 0),
        ({"num_envs": 64, "prioritized": True}, 1, 1),
        ({"num_envs": 64, "prioritized": True, "updates_per_launch": 4, "priority_lag": 0}, 4, 0),
        ({"num_envs": 64, "capture": "eager"}, 1, 0),
    ],
)
def test_a_launch_has_the_updates_that_a_turn_earns(cuda, options, launch, lag):
    assert told(**options)[3:] == [launch, lag]


def test_a_torso_that_reads_the_host_is_run_eagerly(cuda):
    assert told(torso=Reads("shape"))[1] == "eager"
    assert told(torso=nn.Linear(5, 4))[1] == "graph"
    config = Config(device="cuda")
    assert "aten.nonzero" in devices.choose_capture(config, "cuda", "aten.nonzero.default")[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "cpu", "capture": "graph"}, "capture is graph, which needs a CUDA device"),
        ({"device": "cpu", "precision": "bf16"}, "precision is bf16, which is for CUDA devices"),
        ({"device": "cpu", "precision": "tf32"}, "precision is tf32, which is for CUDA devices"),
        ({"updates_per_launch": 6}, "must be a power of two, so that few graphs are"),
        ({"updates_per_launch": 128}, "updates_per_launch is 128: it must be a number"),
        ({"priority_lag": 2}, "priority_lag is 2: it must be a number, at least 0, at most 1"),
        ({"learner": "fused", "capture": "graph"}, "does not support capture graph"),
        ({"learner": "fused", "precision": "tf32"}, "does not support precision tf32"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(options, says):
    (line,) = Config(**options).problems()
    assert says in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"capture": "graph"}, "capture is graph, which needs a CUDA device, and this machine"),
        ({"precision": "bf16"}, "precision is bf16, which needs a CUDA device, and this machine"),
    ],
)
def test_what_needs_a_device_is_refused_where_there_is_none(monkeypatch, options, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = preflight.check(Config(**options))
    assert line.startswith(says)


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_run_of_a_device_is_resumed_nowhere_else(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = Config(device=device, vectorization="sync")
    (line,) = preflight.resume_problems(config, None, None, 0)
    assert line.startswith(f"device is '{device}': this machine has 0 CUDA devices")


@pytest.mark.slow
def test_auto_says_that_it_takes_the_cpu_for_a_network_worth_a_device(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    session = build.build(setup_of(small(tmp_path, hidden_sizes=(1024, 1024))), lambda _: Silent())
    session.close()
    assert "device cpu: the network is large, 1,057,795 weights, and CUDA is not available" in (
        session.notes
    )


def test_the_largest_batch_that_fits_a_device_is_named():
    config = Config(
        device="cuda", batch_size=4096, torso="nature", updates_per_launch=2, store="rows"
    )
    config = resolved(config, PICTURES, weights=1)
    size = measure_network(config, PICTURES)
    room = device_bytes(config.replace(batch_size=300), PICTURES, size)
    (line,) = device_problems(config, PICTURES, size, room)
    assert line.startswith("batch_size is 4096: network, optimizer and batches need ")
    assert line.endswith("The largest --batch-size that fits is about 300")
    assert device_problems(config.replace(batch_size=300), PICTURES, size, room) == []
    (line,) = device_problems(config, PICTURES, size, 1 << 20)
    assert line.endswith("Not even a batch of 1 fits: use smaller --hidden-sizes or --device cpu")


def test_a_device_is_asked_for_its_memory_before_anything_is_allocated(cuda, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: asked.append(device) or (2 << 30, 0)
    )
    config = Config(device="cuda", torso="nature", batch_size=4096, buffer_size=8192, store="rows")
    setup, (line,) = preflight.prepare(config, PICTURES._replace(obs_shape=(4, 84, 84)))
    assert setup is None
    assert "of cuda's memory and 1.00 GiB are available. The largest --batch-size that" in line
    assert asked == [torch.device("cuda")]


def test_a_replay_that_exceeds_the_device_is_named(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 0))
    facts = PICTURES._replace(obs_shape=(4, 84, 84))
    config = Config(device="cuda", store="device", buffer_size=1_000_000, checkpoint_replay=False)
    _, (line,) = preflight.prepare(config, facts)
    assert line.startswith("store is device: the observations of 1,000,000 rows need 26.")
    assert line.endswith("are available. Use --store auto or a smaller --buffer-size")
    for rows, store in ((10_000, "device"), (150_000, "rows")):
        setup, lines = preflight.prepare(config.replace(store="auto", buffer_size=rows), facts)
        assert lines == []
        assert setup is not None
        assert setup.config.store == store


@pytest.mark.parametrize(("options", "launch"), [({}, 8), ({"capture": "eager"}, 1)])
def test_the_memory_of_all_updates_of_a_launch_is_asked_for(cuda, monkeypatch, options, launch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 0))
    monkeypatch.setattr(
        preflight,
        "device_problems",
        lambda config, *_: asked.append(config.updates_per_launch) or [],
    )
    config = Config().replace(device="cuda", num_envs=64, train_frequency=4, **options)
    assert preflight.prepare(config, FACTS)[1] == []
    assert asked == [launch]


@pytest.fixture
def traced(monkeypatch):
    """Captures graphs as traces on the CPU. Everything else is as on a device."""
    recorders = []
    monkeypatch.setattr(devices, "CudaBranches", lambda device: one_by_one)
    monkeypatch.setattr(
        devices, "CudaRecorder", lambda device: recorders.append(TracedRecorder()) or recorders[-1]
    )
    return recorders


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"prioritized": True, "noisy": True, "priority_lag": 1}])
def test_a_run_by_recorded_updates_has_the_bits_of_an_eager_one(tmp_path, traced, options):
    options = {
        "total_timesteps": 300, "train_frequency": 2, "updates_per_launch": 2, "device": "cpu",
        "learner": "torch", "target_network_frequency": 30, "eval_frequency": 150, **options,
    }  # fmt: skip
    runs = []
    for capture in ("eager", "graph"):
        config = small(tmp_path / capture, capture=capture, **options)
        session, _ = run_loop(config)
        assert session.config.capture == capture
        runs.append(session.run)
    eager, graph = runs
    assert graph.learner.updates == eager.learner.updates == 125
    assert torch.equal(graph.learner.online.weights, eager.learner.online.weights)
    assert torch.equal(graph.learner.target.weights, eager.learner.target.weights)
    (recorder,) = traced
    slots = 1 + options.get("priority_lag", 0)
    # Of each slot calls of two and of one; acting with and without noise; evaluation's lanes.
    assert recorder.recorded == 2 * slots + 1 + options.get("noisy", False) + 1


@pytest.mark.slow
def test_an_update_that_cannot_be_captured_runs_eagerly_or_is_refused(tmp_path, monkeypatch):
    line = "a call cannot be captured as a CUDA graph"

    class Fails:
        def __call__(self, call, generators):
            raise UncapturableError(f"{line}: operation not permitted")

    monkeypatch.setattr(devices, "CudaBranches", lambda device: one_by_one)
    monkeypatch.setattr(devices, "CudaRecorder", lambda device: Fails())
    asked = small(tmp_path, device="cpu", learner="torch", capture="graph")
    with pytest.raises(fastdqn.ConfigError) as caught:
        build.build(setup_of(asked), lambda _: Silent())
    assert caught.value.lines == [
        f"capture is graph, and {line}: operation not permitted: use --capture auto"
    ]
    setup = setup_of(asked)._replace(requested=asked.replace(capture="auto"))
    session = build.build(setup, lambda _: Silent())
    session.close()
    assert (session.config.capture, session.config.updates_per_launch) == ("eager", 1)
    assert f"capture is eager: {line}: operation not permitted" in session.notes


def test_a_graph_of_a_torso_that_reads_the_host_is_refused(tmp_path, cuda, monkeypatch):
    facts = EnvFacts((5,), FACTS.obs_dtype, 1.0, 3, 0)
    config = small(tmp_path, capture="graph", device="cuda")
    with pytest.raises(fastdqn.ConfigError, match=r"reads from the host \(aten\._local_scalar"):
        resolve(config, facts, "sync", UserParts(Reads("item")))
    config = config.replace(capture="auto")
    config, notes, _ = resolve(config, facts, "sync", UserParts(Reads("branch")))
    assert config.capture == "eager"
    assert notes[-1].startswith("capture eager: the torso reads from the host, which a graph")


@pytest.mark.slow
@pytest.mark.parametrize("together", [2, 4])
def test_updates_that_are_launched_together_leave_the_bits_of_a_run_as_they_are(tmp_path, together):
    options = {"train_frequency": 1, "target_network_frequency": 30}
    one, _ = run_loop(small(tmp_path / "1", **options))
    several, _ = run_loop(small(tmp_path / "2", updates_per_launch=together, **options))
    assert several.run.learner.updates == one.run.learner.updates == 650
    assert torch.equal(several.run.learner.online.weights, one.run.learner.online.weights)


@pytest.mark.slow
def test_hooks_are_called_for_each_update_of_a_launch(tmp_path):
    seen = []
    fastdqn.train(
        small(tmp_path, updates_per_launch=4, train_frequency=1, prioritized=True),
        on_update=lambda progress, batch, priority: seen.append((progress.updates, len(priority))),
    )
    assert seen == [(n, 16) for n in range(1, 651)]


def test_phases_that_are_what_is_left_to_wait_for_are_labelled():
    config = Config(device="cpu", vectorization="sync", atari_protocol="none")
    assert residual_phases(config) == {}
    assert residual_phases(config.replace(vectorization="async"))["env"].startswith(
        "what is left of the wait"
    )
    assert [*residual_phases(config.replace(device="cuda"))] == ["learn", "act"]


@pytest.mark.parametrize(
    ("options", "weights", "cores", "threads"),
    [
        ({}, 1_000, 8, 1),
        ({"threads": 4}, 1_000, 8, 1),  # the fused learner has one
        ({"value": "categorical", "threads": 4}, 1_000, 8, 1),
        ({"learner": "torch"}, 1_000, 8, 1),
        ({"learner": "torch", "threads": 3}, 1_000, 2, 3),
        ({}, 10**8, 8, 8),
        ({"threads": 2}, 10**8, 8, 2),
    ],
)
def test_threads_are_those_of_torch(options, weights, cores, threads, monkeypatch):
    monkeypatch.setattr("fastdqn.builders.auto_options.usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = resolved(Config(device="cpu", **options), FACTS, weights=weights)
    assert config.threads == threads
    assert resolved(config, FACTS, weights=weights).threads == threads


def test_more_threads_than_the_fused_learner_has_are_noted():
    notes = resolve(Config(device="cpu", threads=4), FACTS, "sync").notes
    assert "threads 1: the fused learner has one thread, not 4" in notes


@pytest.mark.parametrize(("limit", "threads"), [("1", 1), ("3", 3)])
def test_omp_num_threads_is_the_limit_unless_threads_is_set(limit, threads, monkeypatch):
    monkeypatch.setattr("fastdqn.builders.auto_options.usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    config = Config(device="cpu")
    assert resolved(config, FACTS, weights=10**8).threads == threads
    assert resolved(config.replace(threads=2), FACTS, weights=10**8).threads == 2
