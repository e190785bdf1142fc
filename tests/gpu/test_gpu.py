"""What only a CUDA device can show: graphs, pinned uploads, and the same learning as on the CPU."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import contextlib
import json
import warnings

import numpy as np
import pytest
import torch

import fastdqn
from fastdqn.bench.synthetic_data import random_obs
from fastdqn.builders import agent, devices
from fastdqn.builders.preflight import check
from fastdqn.cli.main import main
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.captured_policy import CapturedPolicy
from fastdqn.learning.graph_capture import CudaRecorder, Graphs, eager
from fastdqn.learning.priority_feedback import PriorityFeedback
from fastdqn.learning.random_inputs import MEANS
from fastdqn.replay import Batch, Replay, Ring, RowStore, UniformSampler
from helpers.capture import EVERY, FACTS, PICTURES, Reads, batches_of, config_of
from helpers.learners import CPU, make_batch, make_learner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def whole_float32():
    """Parity is of the order of operations: products are exact where not said otherwise."""
    with devices.arithmetic(config_of(device="cuda", precision="float32")):
        yield


@pytest.fixture
def updates():
    """Number of updates that a test takes."""
    return 60


def learner_on(capture, facts=FACTS, **options):
    config = config_of(device="cuda", **options)
    return agent.make_learner(config, agent.make_online(config, facts)[0], capture)


def graphs(said=None) -> Graphs:
    return Graphs(CudaRecorder(CUDA), print if said is None else said.append)


def on_cuda(batches: list[Batch]) -> list[Batch]:
    return [Batch(*(None if t is None else t.cuda() for t in batch)) for batch in batches]


def put(static: list[Batch], fresh: list[Batch]) -> None:
    for to, source in zip(static, fresh, strict=False):
        for mine, given in zip(to, source, strict=True):
            if mine is not None:
                mine.copy_(given)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_a_captured_update_is_the_eager_one_through_a_load_and_a_change_of_rate(options, updates):
    captured, written = learner_on(graphs(), **options), learner_on(eager, **options)
    static = on_cuda(batches_of(1))
    captured.prepare(*static)
    for update in range(updates):
        fresh = on_cuda(batches_of(1, update))
        put(static, fresh)
        torch.testing.assert_close(
            captured.update(*static), written.update(*fresh), rtol=1e-3, atol=1e-3
        )
        if update == updates // 3:
            captured.load_state(written.state())
        if update == 2 * updates // 3:
            for learner in (captured, written):
                learner.optimizer.learning_rate.fill_(1e-3)
    torch.testing.assert_close(
        captured.online.weights, written.online.weights, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_captured_update_of_pictures_is_the_eager_one_in_every_precision(precision, updates):
    options = {"torso": "nature", "hidden_sizes": (32,), "precision": precision}
    with devices.arithmetic(config_of(device="cuda", precision=precision)):
        captured = learner_on(graphs(), PICTURES, **options)
        written = learner_on(eager, PICTURES, **options)
        static = on_cuda(batches_of(1, facts=PICTURES))
        captured.prepare(*static)
        for update in range(updates // 3):
            fresh = on_cuda(batches_of(1, update, PICTURES))
            put(static, fresh)
            torch.testing.assert_close(
                captured.update(*static), written.update(*fresh), rtol=0.02, atol=0.02
            )


def test_updates_of_one_launch_are_those_made_one_by_one(updates):
    several = learner_on(graphs(), noisy=True, updates_per_launch=4)
    one = learner_on(graphs(), noisy=True)
    static, single = on_cuda(batches_of(4)), on_cuda(batches_of(1))
    for count in (4, 2, 1):
        several.prepare(*static[:count])
    one.prepare(*single)
    for call in range(updates // 6):
        fresh = on_cuda(batches_of(4, call))
        count = several.together(4)
        put(static[:count], fresh)
        alone = []
        for batch in fresh[:count]:
            put(single, [batch])
            alone.append(one.update(*single).clone())
        torch.testing.assert_close(several.update(*static[:count]), torch.cat(alone))
    torch.testing.assert_close(several.online.weights, one.online.weights)


@contextlib.contextmanager
def waits_are_errors():
    """Within, a call that waits for the device fails."""
    try:
        _set_sync_debug_mode("error")
        yield
    finally:
        _set_sync_debug_mode("default")


def _set_sync_debug_mode(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode(mode)


def test_a_replay_waits_for_nothing_and_allocates_nothing(updates):
    learner = learner_on(graphs(), noisy=True, tau=0.1, target_network_frequency=4)
    static = on_cuda(batches_of(1))
    learner.prepare(*static)
    learner.update(*static)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.current"]
    with waits_are_errors():
        for _ in range(updates):
            learner.update(*static)
    assert torch.cuda.memory_stats()["allocation.all.current"] == before


def test_a_call_of_several_updates_is_one_launch():
    learner = learner_on(graphs(), updates_per_launch=4, target_network=False)
    static = on_cuda(batches_of(4))
    learner.prepare(*static)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as seen:
        for _ in range(5):
            learner.update(*static)
        torch.cuda.synchronize()
    counts = {row.key: row.count for row in seen.key_averages()}
    assert counts["cudaGraphLaunch"] == 5
    assert counts.get("cudaLaunchKernel", 0) == 0


def test_a_captured_actor_follows_the_weights(updates):
    learner = learner_on(eager)
    network = learner.online.eval_alias()
    choose = CapturedPolicy(network, learner.value, CUDA, graphs())
    for update in range(updates // 3):
        obs = random_obs(np.random.default_rng(update), 33, (5,), np.float32)
        expected = network(torch.from_numpy(obs).cuda()).argmax(1).cpu().numpy()
        np.testing.assert_array_equal(choose(obs, None, MEANS), expected)
        learner.update(*on_cuda(batches_of(1, update)))
        if update == updates // 6:
            learner.online.weights.neg_()


def test_late_priorities_belong_to_the_rows_they_came_from(updates):
    staging = Staging(_replay().new_batch(64), CUDA, together=2, slots=2)
    returns, replay, seen = PriorityFeedback(staging, 1), _replay(), 0
    for _ in range(updates):
        for host in staging.hosts(2):
            replay.sample(host)
        batches = staging.upload(2)
        returns.send(torch.cat([batch.index.float() for batch in batches]))
        for index, priority in returns.arrived():
            np.testing.assert_array_equal(index, priority)
            seen += 1
    assert seen == 2 * (updates - 1)


def _replay() -> Replay:
    replay = Replay(Ring(1, 300), RowStore(1, 300, (3,), np.float32), UniformSampler(1))
    replay.start([0], np.zeros((1, 3)))
    for t in range(299):
        replay.add([0], [t % 2], [float(t)], np.full((1, 3), t + 1.0))
    return replay


def test_a_torso_that_reads_the_host_runs_eagerly_or_is_refused(tmp_path):
    options = fastdqn.Config(
        total_timesteps=300, learning_starts=50, eval_frequency=0, eval_episodes=1, device="cuda",
        tensorboard=False, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    torso = torch.nn.Sequential(torch.nn.Linear(4, 5), Reads("item"))
    run = fastdqn.train(options, torso=torso)
    assert json.loads((run.folder / "config.json").read_text())["capture"] == "eager"
    with pytest.raises(fastdqn.ConfigError, match=r"reads from the host \(aten\._local_scalar"):
        fastdqn.train(options, torso=torso, capture="graph", run_dir=str(tmp_path / "other"))


def test_a_batch_beyond_the_device_is_refused_before_it_is_allocated():
    before = torch.cuda.memory_allocated()
    config = fastdqn.PRESETS["cartpole"].replace(
        device="cuda", batch_size=1 << 24, buffer_size=1 << 25
    )
    lines = check(config.replace(hidden_sizes=(8192, 8192)))
    assert any("The largest --batch-size that fits" in line or "GiB" in line for line in lines)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("prioritized", [False, True])
def test_auto_captures_and_the_config_says_so(tmp_path, prioritized):
    run = fastdqn.train(
        "cartpole", total_timesteps=3_000, device="cuda", prioritized=prioritized,
        train_frequency=8, stop_at_return=None, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    config = json.loads((run.folder / "config.json").read_text())
    told = [config[name] for name in ("capture", "precision", "updates_per_launch", "priority_lag")]
    assert told == ["graph", "tf32", 1 if prioritized else 8, int(prioritized)]
    assert run.summary["updates"] > 0


def test_the_batch_arrives_as_it_was_sampled_however_soon_the_next_is_drawn(updates):
    replay = _replay()
    staging = Staging(replay.new_batch(256), torch.device("cuda"))
    for _ in range(updates):
        replay.sample(staging.host)
        expected = staging.host.reward.copy()
        staging.upload()
        replay.sample(staging.host)
        np.testing.assert_array_equal(staging.download(staging.device.reward), expected)


def test_a_device_learns_what_the_cpu_learns(updates):
    on_cpu, on_device = make_learner(clip=1.0), make_learner(clip=1.0, device=torch.device("cuda"))
    for update in range(3 * updates):
        batch = make_batch(update)
        on_cpu.update(batch)
        on_device.update(batch._replace(**{k: v.cuda() for k, v in batch._asdict().items()
                                           if v is not None}))  # fmt: skip
    torch.testing.assert_close(
        on_device.online.weights.to(CPU), on_cpu.online.weights, rtol=1e-3, atol=1e-4
    )


def test_a_run_on_the_device_trains_and_its_weights_load_on_the_cpu(tmp_path):
    run = fastdqn.train(
        "cartpole", total_timesteps=3_000, device="cuda", run_dir=str(tmp_path / "run")
    )
    policy = fastdqn.load_policy(run.folder)
    assert policy(np.zeros((3, 4), np.float32)).shape == (3,)


def test_a_profile_reports_the_device_s_own_kernels_and_memory(tmp_path):
    words = f"profile cartpole --device cuda --updates 5 --out {tmp_path}"
    assert main(words.split()) == 0
    result = json.loads((tmp_path / "profile.json").read_text())
    assert result["launches_per_call"] > 5
    assert 0 < result["busy_share"] <= 1
    # The ceilings take gigabytes, an update of this network well under one.
    assert 0 < result["peak_bytes"] < 1 << 30
    assert result["operators"]
    assert not [row["name"] for row in result["operators"] if row["name"].startswith("aten::")]
