"""What only a CUDA device can show: pinned uploads, and the same learning as on the CPU."""

import json

import numpy as np
import pytest
import torch
from test_learning import CPU, make_batch, make_learner

import fastdqn
from fastdqn.cli import main
from fastdqn.learning.staging import Staging
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_batch_arrives_as_it_was_sampled_however_soon_the_next_is_drawn():
    replay = Replay(Ring(1, 300), RowStore(1, 300, (3,), np.float32), UniformSampler(1))
    replay.start([0], np.zeros((1, 3)))
    for t in range(299):
        replay.add([0], [t % 2], [float(t)], np.full((1, 3), t + 1.0))
    staging = Staging(replay.new_batch(256), torch.device("cuda"))
    for _ in range(50):
        replay.sample(staging.host)
        expected = staging.host.reward.copy()
        staging.upload()
        replay.sample(staging.host)
        np.testing.assert_array_equal(staging.download(staging.device.reward), expected)


def test_a_device_learns_what_the_cpu_learns_for_200_updates():
    on_cpu, on_device = make_learner(clip=1.0), make_learner(clip=1.0, device=torch.device("cuda"))
    for update in range(200):
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


def test_a_profile_tells_the_device_s_own_kernels_and_memory(tmp_path):
    words = f"profile cartpole --device cuda --updates 5 --out {tmp_path}"
    assert main(words.split()) == 0
    result = json.loads((tmp_path / "profile.json").read_text())
    assert result["launches_per_call"] > 5
    assert 0 < result["busy_share"] <= 1
    # The ceilings take gigabytes, an update of this network well under one.
    assert 0 < result["peak_bytes"] < 1 << 30
    assert result["operators"]
    assert not [row["name"] for row in result["operators"] if row["name"].startswith("aten::")]
