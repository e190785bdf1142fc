"""TorchOptimizer against the optimizers of torch on the same numbers."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdqn.learning.torch_optimizer import TorchOptimizer, adamw, radam
from helpers.compiler import traced
from helpers.learners import make_batch, make_learner

WEIGHTS = torch.linspace(-1, 1, 7)


def gradients(count: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(7, generator=generator) for _ in range(count)]


def sgd(weights, gradient, learning_rate):
    return TorchOptimizer(torch.optim.SGD, weights, gradient, learning_rate)


def momentum(weights, gradient, learning_rate):
    settings = {"momentum": 0.9, "weight_decay": 0.1}
    return TorchOptimizer(torch.optim.SGD, weights, gradient, learning_rate, **settings)


def decayed_adamw(weights, gradient, learning_rate):
    return adamw(weights, gradient, learning_rate, 1e-3, 0.5)


CASES = {
    "adamw": (adamw, lambda p: torch.optim.AdamW([p], lr=1e-2)),
    "adamw with settings": (
        decayed_adamw, lambda p: torch.optim.AdamW([p], lr=1e-2, eps=1e-3, weight_decay=0.5)
    ),
    "radam": (radam, lambda p: torch.optim.RAdam([p], lr=1e-2)),
    "sgd": (sgd, lambda p: torch.optim.SGD([p], lr=1e-2)),
    "momentum": (
        momentum, lambda p: torch.optim.SGD([p], lr=1e-2, momentum=0.9, weight_decay=0.1)
    ),
}  # fmt: skip
each_optimizer = pytest.mark.parametrize("make", [make for make, _ in CASES.values()])


def run(optimizer: TorchOptimizer, given: list[torch.Tensor]) -> None:
    for gradient in given:
        optimizer.gradient.copy_(gradient)
        optimizer.step()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_equals_torch_step_by_step_through_a_change_of_rate(case):
    make, make_reference = case
    ours, theirs = make(WEIGHTS.clone(), torch.zeros(7), 1e-2), nn.Parameter(WEIGHTS.clone())
    reference = make_reference(theirs)
    for step, gradient in enumerate(gradients(200)):
        if step == 100:
            ours.learning_rate.fill_(1e-3)
            reference.param_groups[0]["lr"] = 1e-3
        theirs.grad = gradient.clone()
        reference.step()
        run(ours, [gradient])
        torch.testing.assert_close(ours.weights, theirs.detach(), rtol=1e-6, atol=1e-7)


@each_optimizer
def test_construction_changes_neither_weights_nor_gradient(make):
    weights, gradient = WEIGHTS.clone(), WEIGHTS + 3
    optimizer = make(weights, gradient, 0.5)
    assert optimizer.weights is weights
    assert optimizer.gradient is gradient
    assert torch.equal(weights, WEIGHTS)
    assert torch.equal(gradient, WEIGHTS + 3)
    assert weights.grad is None
    state = optimizer.tensors()
    assert state.pop("learning_rate").item() == 0.5
    assert not any(tensor.any() for tensor in state.values())


def test_all_state_is_named_from_construction_on():
    names = {"learning_rate", "step", "exp_avg", "exp_avg_sq"}
    for make in (adamw, radam):
        optimizer = make(WEIGHTS.clone(), torch.zeros(7), 1e-2)
        before = optimizer.tensors()
        run(optimizer, gradients(3))
        assert set(before) == names
        assert all(before[name] is tensor for name, tensor in optimizer.tensors().items())
        assert before["step"].item() == 3


@each_optimizer
def test_a_state_that_is_copied_continues_exactly(make):
    first = make(WEIGHTS.clone(), torch.zeros(7), 1e-2)
    run(first, gradients(10))
    second = make(first.weights.clone(), torch.zeros(7), 1.0)
    for name, tensor in first.tensors().items():
        second.tensors()[name].copy_(tensor)
    for optimizer in (first, second):
        run(optimizer, gradients(10, seed=2))
    assert torch.equal(first.weights, second.weights)


@each_optimizer
def test_a_learning_rate_of_zero_stops_it(make):
    optimizer = make(WEIGHTS.clone(), torch.zeros(7), 1e-2)
    optimizer.learning_rate.zero_()
    run(optimizer, gradients(3))
    assert torch.equal(optimizer.weights, WEIGHTS)


@pytest.mark.parametrize("make", [adamw, radam])
def test_a_learner_learns_with_it_and_warm_up_changes_nothing(make):
    prepared, fresh = (make_learner(optimizer=make) for _ in range(2))
    prepared.prepare(make_batch(9))
    before = fresh.online.weights.clone()
    for learner in (prepared, fresh):
        for seed in range(3):
            learner.update(make_batch(seed))
    assert torch.equal(prepared.online.weights, fresh.online.weights)
    assert not torch.equal(fresh.online.weights, before)
    fresh.online.check_views()


@pytest.mark.parametrize("make", [adamw, radam])
def test_on_cuda_a_step_reads_nothing_on_the_host(make, monkeypatch):
    """With tensors that have no values, a read is an error."""
    monkeypatch.setattr(torch.Tensor, "count_nonzero", lambda tensor: 0)  # of the constructor
    with FakeTensorMode():
        device = torch.device("cuda")
        optimizer = make(torch.zeros(7, device=device), torch.zeros(7, device=device), 1e-2)
        optimizer.step()
        assert {tensor.device.type for tensor in optimizer.tensors().values()} == {"cuda"}
        with pytest.raises(RuntimeError, match="_local_scalar_dense"):
            optimizer.learning_rate.item()


@pytest.mark.slow
@pytest.mark.parametrize("make", [adamw, radam])
def test_traced_equals_eager_through_a_change_of_rate(make):
    reference = make_learner(optimizer=make, clip=1.0)
    fast = make_learner(optimizer=make, capture=traced, clip=1.0)
    fast.prepare(make_batch())
    for update in range(40):
        if update == 20:
            for learner in (reference, fast):
                learner.optimizer.learning_rate.fill_(1e-4)
        batch = make_batch(update)
        fast.update(batch)
        reference.update(batch)
    torch.testing.assert_close(fast.online.weights, reference.online.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NAdam", "mu_product of NAdam does not start at zero"),
        ("Rprop", "step_size of Rprop does not start at zero"),
    ],
)
def test_a_state_that_does_not_start_at_zero_is_rejected(name, says):
    with pytest.raises(ValueError, match=says):
        TorchOptimizer(getattr(torch.optim, name), WEIGHTS.clone(), torch.zeros(7), 1e-2)


@pytest.mark.slow
def test_its_import_does_not_construct_the_optimizers_of_torch():
    code = (
        "import sys, fastdqn.learning.torch_optimizer\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
