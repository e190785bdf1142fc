"""Faults that the simulated device finds, and failures of a device that a run survives or names."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import fastdqn
from fastdqn.bench import roofline
from fastdqn.bench.repeats import Effort
from fastdqn.builders import agent, memory_estimate
from fastdqn.builders.devices import arithmetic
from fastdqn.builders.network_size import NetworkSize
from fastdqn.builders.parts import UserParts
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.captured_policy import CapturedPolicy
from fastdqn.learning.cuda_streams import CudaBranches, CudaStreams
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.graph_capture import (
    CudaRecorder,
    Graphs,
    UncapturableError,
    compiled,
    eager,
)
from fastdqn.learning.out_of_memory import OutOfMemoryError
from fastdqn.learning.random_inputs import MEANS
from helpers.capture import FACTS, Reads, batches_of, config_of
from helpers.simulated_cuda import simulated_cuda

CUDA = torch.device("cuda")
SHORT = {
    "total_timesteps": 300, "learning_starts": 100, "eval_frequency": 150, "eval_episodes": 2,
    "eval_max_steps": 10, "stop_at_return": None, "num_envs": 8, "train_frequency": 4,
    "batch_size": 8, "hidden_sizes": (8,), "target_network_frequency": 40, "tensorboard": False,
    "device": "cuda",
}  # fmt: skip


@pytest.fixture
def machine():
    with simulated_cuda() as made:
        yield made


def train(folder, **options):
    return fastdqn.train("cartpole", **SHORT | {"run_dir": str(folder / "run")} | options)


def staging_of(size: int = 64) -> Staging:
    batch = agent.make_replay(config_of(batch_size=size, store="rows"), FACTS).new_batch(size)
    return Staging(batch, CUDA)


# Deliberate breaks


def test_a_missing_wait_for_an_upload_is_found(machine, monkeypatch):
    def upload(self, to, source, after, then):
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(after)
            to.copy_(source, non_blocking=True)
            then.record(self._copies)

    monkeypatch.setattr(CudaStreams, "upload", upload)
    staging = staging_of()
    staging.upload()
    _ = staging.device.reward + 1
    assert any("is not ordered after" in line for line in machine.problems)


@pytest.mark.parametrize("missing", ["wait", "record"])
def test_a_missing_event_between_two_batches_is_found(machine, monkeypatch, missing):
    staging = staging_of()
    monkeypatch.setattr(CudaStreams, missing, lambda self, event: None)
    for _ in range(4):
        host = staging.host
        assert host.reward is not None
        machine.host_touches(staging._slots[staging._turn].pinned, "a sample")
        staging.upload()
        _ = staging.device.reward + 1
    assert machine.problems


def test_a_target_in_other_memory_is_found(machine, monkeypatch, tmp_path):
    def copy_from(self, other):
        self.__init__(self.module, other.weights.device)
        self.weights.copy_(other.weights)

    monkeypatch.setattr(FlatParameters, "copy_from", copy_from)
    train(tmp_path)
    assert any("a graph uses freed memory" in line for line in machine.problems)


def test_an_input_that_was_freed_is_found(machine):
    given = [torch.ones(3, device=CUDA)]
    replay, result = CudaRecorder(CUDA)(lambda: given[0] + 1)
    replay()
    assert result.cpu().tolist() == [2, 2, 2]
    assert machine.problems == []
    given.clear()
    replay()
    assert [line[:24] for line in machine.problems] == ["a graph uses freed memor"]


def test_a_result_that_a_later_recording_may_overwrite_is_found(machine):
    recorder, given = CudaRecorder(CUDA), torch.ones(3, device=CUDA)
    first, _ = recorder(lambda: given + 1)
    second, result = recorder(lambda: given + 2)
    second()
    first()
    assert result.cpu().isnan().all()


def test_a_read_by_the_host_is_named(machine):
    with pytest.raises(UncapturableError, match=r"aten\._local_scalar_dense"):
        CudaRecorder(CUDA)(lambda: torch.ones(3, device=CUDA).sum().item())


def test_branches_of_a_graph_must_be_joined(machine):
    def call(joins: bool):
        given, side = torch.ones(3, device=CUDA), torch.cuda.Stream(CUDA)
        here = torch.cuda.current_stream(CUDA)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            result = given + 1
        if joins:
            here.wait_stream(side)
        return result

    replay, result = CudaRecorder(CUDA)(lambda: call(joins=True))
    replay()
    assert result.cpu().tolist() == [2, 2, 2]
    with pytest.raises(UncapturableError, match="unjoined work"):
        CudaRecorder(CUDA)(lambda: call(joins=False))


def test_tensors_of_two_devices_do_not_meet(machine):
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.add(torch.ones(3, device=CUDA), torch.ones(3))


# Failures that are survived or named


def test_the_first_upload_waits_for_the_zeros_of_its_block(machine):
    staging = staging_of()
    staging.upload()
    assert machine.problems == []


def test_out_of_memory_during_a_capture_is_out_of_memory(machine, monkeypatch, tmp_path):
    captured = CudaRecorder._captured

    def little_memory(self, *args):
        machine.memory.capacity = machine.memory.used(0) + 100
        return captured(self, *args)

    monkeypatch.setattr(CudaRecorder, "_captured", little_memory)
    with pytest.raises(OutOfMemoryError, match=r"cuda is out of memory: CUDA out of memory.*Use a"):
        train(tmp_path)


@pytest.mark.parametrize("reason", ["uncapturable", "memory"])
def test_an_evaluation_that_cannot_be_captured_runs_eagerly(
    machine, monkeypatch, tmp_path, reason, capsys
):
    captured, expected = CudaRecorder._captured, train(tmp_path, run_dir=str(tmp_path / "other"))
    asked = []

    def first_two_shapes(self, *args):
        if len(asked) >= before_evaluation:
            if reason == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 bytes")
            raise UncapturableError("a call cannot be captured as a CUDA graph: reason")
        asked.append(1)
        return captured(self, *args)

    before_evaluation = machine.counts["captures"] - 1
    monkeypatch.setattr(CudaRecorder, "_captured", first_two_shapes)
    run = train(tmp_path, quiet=False)
    assert run.summary["eval"]["mean_return"] == expected.summary["eval"]["mean_return"]
    said = " ".join(capsys.readouterr().out.split())
    assert "acting runs eagerly for 1 x [2, 4]: " in said


def test_a_call_of_another_thread_does_not_end_a_capture(machine):
    def call():
        other = threading.Thread(target=torch.cuda.synchronize)
        other.start()
        other.join()
        return torch.ones(3, device=CUDA) + 1

    replay, result = CudaRecorder(CUDA)(call)
    replay()
    assert result.cpu().tolist() == [2, 2, 2]


def test_an_error_of_a_captured_call_is_raised_as_it_is(machine):
    calls = []

    def call():
        calls.append(1)
        if len(calls) == 4:  # after the warm-up
            raise KeyError("a part's own")
        return torch.ones(3, device=CUDA)

    with pytest.raises(KeyError, match="a part's own"):
        CudaRecorder(CUDA)(call)


def test_what_on_update_keeps_is_not_overwritten(tmp_path, machine):
    kept, as_it_was = [], []

    def on_update(progress, batch, priority):
        kept.append((priority, batch.reward))
        as_it_was.append((priority.cpu().numpy().copy(), batch.reward.cpu().numpy().copy()))

    train(tmp_path, on_update=on_update)
    assert len(kept) > 20
    for tensors, arrays in zip(kept, as_it_was, strict=True):
        for tensor, array in zip(tensors, arrays, strict=True):
            np.testing.assert_array_equal(tensor.cpu().numpy(), array)


# Without a device


def test_more_than_eight_compiled_learners_are_all_compiled(monkeypatch):
    """Dynamo counts by code object, and runs eagerly after eight compilations."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    batches = batches_of(1)
    for learners in range(1, 11):
        config = config_of(capture="compile", hidden_sizes=(3 + learners,))
        learner = agent.make_learner(config, agent.make_online(config, FACTS)[0], compiled)
        before = counters["stats"]["unique_graphs"]
        learner.update(*batches)
        assert counters["stats"]["unique_graphs"] > before, learners
    torch._dynamo.reset()


@pytest.mark.parametrize("users", [None, "tf32", "ieee"])
def test_precisions_of_the_user_are_as_they_were_afterwards(users):
    kinds = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    at_first = [kind.fp32_precision for kind in kinds]
    try:
        if users is not None:
            for kind in kinds:
                kind.fp32_precision = users
        before = [kind.fp32_precision for kind in kinds]
        for precision, within in (("tf32", "tf32"), ("float32", "ieee"), ("bf16", "tf32")):
            with arithmetic(fastdqn.Config(device="cuda", precision=precision)):
                assert [kind.fp32_precision for kind in kinds] == [within, within]
            assert [kind.fp32_precision for kind in kinds] == before
    finally:
        for kind, precision in zip(kinds, at_first, strict=True):
            kind.fp32_precision = precision


def test_what_is_on_the_device_is_not_counted_as_memory_of_the_host(monkeypatch):
    """Activations of a batch of 32,768 take 100 GiB."""
    monkeypatch.setattr(memory_estimate, "available_bytes", lambda: 1 << 30)
    size = NetworkSize(weights=1000, sample_bytes=1 << 20)
    config = fastdqn.Config(batch_size=1 << 15, buffer_size=1000)
    lines = {}
    for device in ("cpu", "cuda"):
        resolved = config.replace(
            device=device, updates_per_launch=1, priority_lag=0, store="rows", sampler="uniform"
        )
        lines[device] = memory_estimate.memory_problems(resolved, FACTS, size)
    assert "GiB are available" in lines["cpu"][0]
    assert lines["cuda"] == []


def test_ceilings_are_measured_on_random_numbers(monkeypatch):
    """A GPU takes less power for equal numbers, and then runs faster."""
    monkeypatch.setattr(roofline, "_COPY_BYTES", {"cpu": 1 << 12})
    monkeypatch.setattr(roofline, "_PRODUCT", {"cpu": 16})
    factors, multiply = [], torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: [factors.extend((a, b)), multiply(a, b, out=out)][1]
    )
    roofline.measure_ceilings(torch.device("cpu"), Effort(0.001, 1, 0.0))
    assert all(len(factor.unique()) > 50 for factor in factors)


def test_a_policy_is_captured_without_a_copy_that_is_still_read(machine):
    """The host must not write observations while an earlier copy of them may be under way."""
    config = config_of(device="cuda")
    online, _ = agent.make_online(config, FACTS)
    learner = agent.make_learner(config, online, eager)
    graphs = Graphs(CudaRecorder(CUDA), print)
    choose = CapturedPolicy(online.eval_alias(), learner.value, CUDA, graphs)
    for size in (4, 2):  # the second is captured at its first use
        choose(np.zeros((size, 5), np.float32), None, MEANS)
    assert machine.problems == []


def test_a_torso_that_reads_the_host_is_named(machine, tmp_path):
    with pytest.raises(fastdqn.ConfigError, match=r"reads from the host|aten\._local_scalar"):
        train(tmp_path, torso=torch.nn.Sequential(torch.nn.Linear(4, 5), Reads("item")),
              capture="graph")  # fmt: skip


def test_compiled_pieces_are_captured(machine, monkeypatch, tmp_path):
    """compile-graph: the pieces are compiled, and the whole update is a graph."""
    pieces = []

    def compiling(function, **_):
        pieces.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", compiling)
    run = train(tmp_path, capture="compile-graph")
    assert {"loss", "_clip_and_step", "_best_of"} <= set(pieces)
    assert machine.counts["captures"] > 0
    assert machine.problems == []
    assert '"capture": "compile-graph"' in (run.folder / "config.json").read_text()


def test_a_failed_capture_leaves_the_recorder_usable(machine):
    recorder, given = CudaRecorder(CUDA), torch.ones(3, device=CUDA)
    with pytest.raises(UncapturableError):
        recorder(lambda: given.sum().item())
    replay, result = recorder(lambda: given + 1)
    replay()
    assert result.cpu().tolist() == [2, 2, 2]


def test_a_pass_that_fails_leaves_no_branch_open(machine):
    branches, recorder = CudaBranches(CUDA), CudaRecorder(CUDA)
    given = torch.ones(3, device=CUDA)

    def call(fails: bool):
        try:
            started = branches.start(lambda: given + 1)
            if fails:
                raise KeyError("a part's own")
        finally:
            branches.end()
        return started

    with pytest.raises(KeyError, match="a part's own"):
        recorder(lambda: call(True))
    replay, result = recorder(lambda: call(False))
    replay()
    assert result.cpu().tolist() == [2, 2, 2]


class Odd(torch.nn.Module):
    """A torso with frozen weights and a layer called join."""

    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Linear(5, 4).requires_grad_(False)
        self.join = torch.nn.Linear(4, 3)

    def forward(self, obs):
        return self.join(self.frozen(obs))


def test_frozen_weights_and_any_names_are_allowed_in_a_torso():
    config = config_of()
    online, _ = agent.make_online(config, FACTS, UserParts(Odd()))
    learner = agent.make_learner(config, online, eager)
    module: Any = online.module
    frozen = module.torso.frozen.weight.clone()
    trained = module.torso.join.weight.clone()
    learner.update(*batches_of(1))
    assert torch.equal(module.torso.frozen.weight, frozen)
    assert not torch.equal(module.torso.join.weight, trained)
