"""Graph capture: updates that can be captured, and recordings of them."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.fx.experimental.proxy_tensor import make_fx

from fastdqn.bench.synthetic_data import random_obs
from fastdqn.builders import agent
from fastdqn.envs import EnvFacts
from fastdqn.learning.capturable import host_read
from fastdqn.learning.captured_policy import CapturedPolicy
from fastdqn.learning.graph_capture import Graphs, compiled, eager
from fastdqn.learning.learner import Learner
from fastdqn.learning.random_inputs import MEANS
from helpers.capture import (
    CPU,
    EVERY,
    OTHERS,
    PICTURES,
    VALUES,
    Reads,
    batches_of,
    config_of,
    graphs,
    learner_of,
)
from helpers.compiler import needs_a_compiler
from helpers.cost import slow_but
from helpers.graphs import TracedRecorder


@pytest.mark.slow
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_every_update_runs_with_fake_tensors(options):
    learner = learner_of(**options)
    with FakeTensorMode(allow_non_fake_inputs=True):
        priority, taken = learner._step(batches_of(1))
    assert (priority.shape, taken.shape) == ((6,), (6,))


@pytest.mark.slow
@pytest.mark.parametrize("torso", ["nature", "minatar"])
def test_updates_of_convolutions_run_with_fake_tensors(torso):
    facts = PICTURES if torso == "nature" else PICTURES._replace(obs_shape=(10, 10, 4))
    learner = learner_of_torso(torso, facts)
    with FakeTensorMode(allow_non_fake_inputs=True):
        priority, _ = learner._step(batches_of(1, facts=facts))
    assert priority.shape == (6,)


def learner_of_torso(torso: str, facts: EnvFacts) -> Learner:
    config = config_of(hidden_sizes=(8,)).replace(torso=torso)
    return agent.make_learner(config, agent.make_online(config, facts)[0], eager)


@pytest.mark.parametrize(
    ("how", "error", "named"),
    [
        ("item", DataDependentOutputException, "aten._local_scalar_dense.default"),
        ("branch", DataDependentOutputException, "aten._local_scalar_dense.default"),
        ("shape", DynamicOutputShapeException, "aten.nonzero.default"),
        ("numpy", RuntimeError, "RuntimeError: "),
    ],
)
def test_a_host_read_or_a_data_dependent_shape_is_named(how, error, named):
    learner = learner_of(torso=Reads(how))
    with pytest.raises(error), FakeTensorMode(allow_non_fake_inputs=True):
        learner._step(batches_of(1))
    assert (host_read(Reads(how), (5,)) or "").startswith(named)


def test_a_host_read_cannot_be_traced():
    learner = learner_of(torso=Reads("item"))
    with pytest.raises(RuntimeError, match="get value out of a tracing tensor"):
        make_fx(lambda: learner._step(batches_of(1)))()


def test_a_capturable_torso_is_not_named_nor_an_unsuitable_one():
    torso = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    assert host_read(torso, (5,)) is None
    assert host_read(torso, (6,)) is None


def test_too_many_batches_at_once_are_rejected():
    learner = learner_of(updates_per_launch=2)
    with pytest.raises(
        ValueError, match="got 3 batches at once, but the learner has random inputs"
    ):
        learner.update(*batches_of(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "together"),
    [
        *((value | {"noisy": True}, 1) for value in VALUES.values()),
        *((other, 1) for other in OTHERS.values()),
        (OTHERS["polyak"] | {"noisy": True}, 2),
        (OTHERS["polyak"] | {"target_network_frequency": 1}, 2),
        (OTHERS["polyak"] | {"target_network_frequency": 3}, 2),
        (VALUES["implicit"], 2),
    ],
    ids=str,
)
def test_a_replayed_update_equals_an_eager_one_bitwise(options, together):
    """Through copies of the target, a load, and a change of the learning rate."""
    options = options | {"updates_per_launch": together}
    reference, replayed = learner_of(**options), learner_of(graphs(), **options)
    static = batches_of(together)
    count = together
    while count:
        replayed.prepare(*static[:count])
        count //= 2
    for call in range(8):
        fresh = batches_of(together, call + 1)
        count = replayed.together(together)
        assert reference.together(together) == count
        for to, source in zip(static[:count], fresh, strict=False):
            for mine, given in zip(to, source, strict=True):
                if mine is not None:
                    mine.copy_(given)
        expected = reference.update(*fresh[:count])
        assert torch.equal(replayed.update(*static[:count]), expected)
        if call == 3:
            replayed.load_state(reference.state())
        if call == 5:
            for learner in (reference, replayed):
                learner.optimizer.learning_rate.fill_(1e-3)
                learner.online.weights.mul_(0.5)
    assert torch.equal(replayed.online.weights, reference.online.weights)
    assert torch.equal(replayed.target.weights, reference.target.weights)
    assert replayed.report() == reference.report()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capture", "options"),
    [(eager, {"noisy": True, "value": "implicit-quantile"}), (graphs(), {"noisy": True})],
    ids=["eager", "graph"],
)
def test_memory_stays_in_place_for_200_updates(capture, options):
    learner = learner_of(capture, updates_per_launch=2, **options)
    static = batches_of(2)
    learner.prepare(*static)

    def places():
        network = [*learner.online.module.parameters(), *learner.target.module.parameters()]
        tensors = {
            "network": network, "gradients": [p.grad for p in network if p.requires_grad],
            "optimizer": learner.optimizer.tensors().values(), "loss": [learner.loss_sum],
            "inputs": [t for batch in static for t in batch if t is not None],
            "draws": [t for each in learner.draws.sets for d in each for t in d if t is not None],
        }  # fmt: skip
        return {name: [each.data_ptr() for each in some] for name, some in tensors.items()}

    before = places()
    for _ in range(100):
        learner.update(*static)
    assert learner.updates == 200
    assert places() == before
    learner.online.check_views()


def memory_of(call) -> list[int]:
    """Bytes that torch took and gave back, in order, while a call was made."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as seen:
        call()
    results = seen.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    return [event.nbytes() for event in results if event.name() == "[memory]"]


def test_a_step_frees_its_memory_and_a_fused_step_allocates_none():
    static = batches_of(1)
    for learner, allocates in ((learner_of(), True), (learner_of(learner="fused"), False)):
        learner.prepare(*static)
        learner.update(*static)
        taken = memory_of(lambda learner=learner: [learner.update(*static) for _ in range(5)])
        assert bool(taken) == allocates
        assert abs(sum(taken)) <= 4 * 4 * 6  # the results of the last: priorities and values


@pytest.mark.slow
def test_other_inputs_are_copied_and_another_shape_is_recorded_again_with_a_message():
    said, recorder = [], TracedRecorder()
    replayed, reference = learner_of(Graphs(recorder, said.append)), learner_of()
    replayed.prepare(*batches_of(1))
    for seed in range(5):  # each in memory of its own
        batch = batches_of(1, seed)
        assert torch.equal(replayed.update(*batch), reference.update(*batch))
    assert (recorder.recorded, said) == (1, [])
    for seed in range(2):
        batch = batches_of(1, seed, size=4)
        assert torch.equal(replayed.update(*batch), reference.update(*batch))
    assert recorder.recorded == 2
    assert said == [
        "the update is captured again, for 1 x [4, 5], a shape that was not captured yet"
    ]
    assert torch.equal(replayed.online.weights, reference.online.weights)


@pytest.mark.parametrize(
    "options", slow_but([{}, {"noisy": True}, {"value": "implicit-quantile"}], 1), ids=str
)
def test_updates_in_one_call_equal_single_updates(options):
    one = learner_of(**options, target_network_frequency=28)  # a copy after 7, 14, ... updates
    several = learner_of(**options, target_network_frequency=28, updates_per_launch=8)
    batches, counts, priorities = batches_of(40), [], []
    while several.updates < 40:
        count = several.together(min(8, 40 - several.updates))
        priorities += [several.update(*batches[several.updates : several.updates + count])]
        counts.append(count)
    alone = [one.update(batch) for batch in batches]
    assert counts[:6] == [4, 2, 1, 4, 2, 1]
    assert torch.equal(torch.cat(priorities), torch.cat(alone))
    assert torch.equal(one.online.weights, several.online.weights)
    assert torch.equal(one.target.weights, several.target.weights)


@pytest.mark.parametrize("every", [Fraction(1), Fraction(7, 2), Fraction(5), Fraction(1, 3)])
def test_a_call_ends_with_the_update_after_which_the_target_is_copied(every):
    learner = learner_of(train_frequency=Fraction(1))
    learner.target_update.every = every
    due = [n for n in range(1, 60) if n // every != (n - 1) // every]
    for updates in range(50):
        following = next(n for n in due if n > updates)
        assert learner.target_update.together(updates, 64) == following - updates


@pytest.mark.slow  # each compiles C++ for half a minute
@needs_a_compiler
@pytest.mark.parametrize(
    ("value", "more"),
    [
        ("scalar", {"dueling": False, "noisy": True}),
        ("categorical", {"dueling": True, "noisy": False, "optimizer": "adamw"}),
        ("implicit", {"dueling": False, "noisy": False}),
    ],
)
def test_a_compiled_update_and_actor_agree_with_eager_ones(value, more):
    options = VALUES[value] | more | {"hidden_sizes": (8,)}
    counters.clear()
    reference, fast = learner_of(**options), learner_of(compiled, way="compile", **options)
    network = fast.online.eval_alias()
    choose = CapturedPolicy(network, fast.value, CPU, compiled)
    obs = random_obs(np.random.default_rng(0), 32, (5,), np.float32)
    for update in range(20):
        batch = batches_of(1, update)
        torch.testing.assert_close(
            fast.update(*batch), reference.update(*batch), rtol=1e-3, atol=1e-4
        )
        if update == 10:
            for learner in (reference, fast):
                learner.optimizer.learning_rate.fill_(1e-3)
                learner.online.weights.mul_(0.9)
        values = fast.value.expected(network(torch.from_numpy(obs)))
        chosen = torch.from_numpy(choose(obs, None, MEANS))[:, None]
        torch.testing.assert_close(values.gather(1, chosen)[:, 0], values.amax(1))
    torch.testing.assert_close(fast.online.weights, reference.online.weights, rtol=1e-3, atol=1e-4)
    assert sum(counters["inductor"].values()) > 0  # eager would agree, too


def test_the_tracing_recorder_does_not_see_python_numbers():
    """What these tests stand on: a number of Python's is what it was when it was recorded."""
    box, x = [2.0], torch.ones(3)
    replay, result = TracedRecorder()(lambda: x * box[0])
    box[0] = 5.0
    x.fill_(10.0)
    replay()
    assert result.tolist() == [20.0] * 3
