"""The learner against computations by hand, torch's optimizer, and its compiled form."""

# torch types every attribute of a Module as Tensor | Module, which no test of one can satisfy.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOptionalMemberAccess=false, reportIndexIssue=false, reportOperatorIssue=false

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from fastdqn.learning.adam import FusedAdam, PlainAdam
from fastdqn.learning.autograd import clip_by_norm
from fastdqn.learning.batch_staging import Staging
from fastdqn.learning.bootstrap_targets import Bootstrap, DoubleBackup, MaxBackup, Queries
from fastdqn.learning.flat_parameters import FlatParameters
from fastdqn.learning.networks import (
    MLP,
    DuelingHead,
    Outputs,
    PlainHead,
    QNetwork,
    StreamsHead,
    count_features,
)
from fastdqn.learning.policy import Policy
from fastdqn.learning.random_inputs import MEANS
from fastdqn.learning.target_network import HardCopy, PolyakAverage
from fastdqn.learning.value import ScalarValue, huber, squared_error
from fastdqn.replay import Batch
from helpers.compiler import traced
from helpers.learners import CPU, make_batch, make_learner


def queries(target_next, online_next=None, mask=None):
    return Queries(
        target_next=lambda: torch.tensor(target_next),
        online_next=lambda: torch.tensor(online_next),
        target_obs=lambda: torch.empty(0),
        action=torch.zeros(len(target_next), dtype=torch.int64),
        next_mask=None if mask is None else torch.tensor(mask),
        mask=None,
    )


def test_max_backup_selects_the_best_action_of_the_target_network():
    weights = MaxBackup()(queries([[1.0, 3.0], [5.0, 2.0]])).action_weights
    assert weights.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_double_differs_from_plain_exactly_where_the_argmax_differs():
    target_next = [[1.0, 3.0], [5.0, 2.0], [4.0, 6.0]]
    online_next = [[9.0, 0.0], [7.0, 1.0], [0.0, 1.0]]
    plain = MaxBackup()(queries(target_next)).action_weights
    double = DoubleBackup()(queries(target_next, online_next)).action_weights
    assert (plain != double).any(1).tolist() == [True, False, False]


@pytest.mark.parametrize("backup", [MaxBackup(), DoubleBackup()])
def test_a_masked_action_is_never_bootstrapped_from(backup):
    weights = backup(queries([[9.0, 1.0]], [[9.0, 1.0]], [[False, True]])).action_weights
    assert weights.tolist() == [[0.0, 1.0]]


def test_scalar_target_is_reward_plus_discounted_value_and_each_extra():
    value = ScalarValue(squared_error)
    mixture = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    target = value.target(
        torch.tensor([[4.0, 8.0], [1.0, 9.0]]),
        Bootstrap(mixture, entropy=torch.tensor([1.0, 0.0]), bonus=torch.tensor([0.0, 2.0])),
        reward=torch.tensor([1.0, 1.0]),
        discount=torch.tensor([0.5, 0.0]),
    )
    assert target.tolist() == [1.0 + 0.5 * (7.0 + 1.0), 1.0 + 2.0]


def test_losses_by_hand():
    prediction, target = torch.tensor([0.0, 0.0]), torch.tensor([0.5, -3.0])
    assert squared_error(prediction, target).tolist() == [0.25, 9.0]
    assert huber(prediction, target).tolist() == [0.125, 2.5]


def test_priority_is_the_absolute_error_and_the_loss_is_of_the_action_taken():
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    action, target = torch.tensor([1, 0]), torch.tensor([5.0, 1.0])
    result = ScalarValue(squared_error).loss(output, action, target, MEANS)
    assert result.loss.tolist() == [9.0, 4.0]
    assert result.priority.tolist() == [3.0, 2.0]
    assert result.taken.tolist() == [2.0, 3.0]


def test_dueling_advantages_have_mean_zero_around_the_value():
    head = DuelingHead(4, Outputs(3))
    features = torch.randn(5, 4)
    torch.testing.assert_close(head(features).mean(1), head.streams(features, None)[:, 0])


@pytest.mark.parametrize("head", [DuelingHead, StreamsHead])
def test_the_gradient_of_dueling_streams_is_scaled_where_it_leaves_them(head):
    """With a scale of 0.5 the features get half the gradient, the streams' weights all of it."""
    plain, scaled = head(4, Outputs(3)), head(4, Outputs(3), gradient_scale=0.5)
    scaled.load_state_dict(plain.state_dict())
    features = torch.randn(5, 4, requires_grad=True)
    gradients = []
    for each in (plain, scaled):
        each.zero_grad()
        of_features = torch.autograd.grad(each(features).square().sum(), features)[0]
        each(features).square().sum().backward()
        gradients.append((of_features, [weight.grad for weight in each.parameters()]))
    assert torch.equal(plain(features), scaled(features))
    torch.testing.assert_close(gradients[1][0], 0.5 * gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


def test_one_update_on_a_two_state_mdp_equals_the_closed_form():
    """A linear network on one-hot states; Adam's first step moves each weight by the rate
    against the gradient's sign; the gradient is 2 (q - y) / B at the state and action taken."""
    learner = make_learner(hidden=(), head=PlainHead, backup=MaxBackup(), learning_rate=0.5)
    with torch.no_grad():
        learner.online.weights.zero_()
        learner.online.module.head.values.weight.copy_(torch.tensor([[1.0, 2.0, 0], [3.0, 4.0, 0]]))
        learner.target.copy_from(learner.online)
    batch = Staging(
        Batch(
            obs=np.float32([[1, 0, 0], [0, 1, 0]]), action=np.array([0, 1]),
            reward=np.float32([0.5, -1]), discount=np.float32([0.9, 0]),
            next_obs=np.float32([[0, 1, 0], [1, 0, 0]]), weight=np.float32([1, 0.5]),
            index=np.arange(2),
        ),
        CPU,
    ).device  # fmt: skip
    priority = learner.update(batch)
    # State 0, action 0: q = 1, y = 0.5 + 0.9 * max(2, 4) = 4.1. State 1, action 1: q = 4, y = -1.
    np.testing.assert_allclose(priority, [3.1, 5.0], rtol=1e-6)
    weight = learner.online.module.head.values.weight
    np.testing.assert_allclose(weight.grad, [[-3.1, 0, 0], [0, 2.5, 0]], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(weight.detach(), [[1.5, 2, 0], [3, 3.5, 0]], rtol=1e-5, atol=1e-5)
    assert learner.report().loss == pytest.approx((3.1**2 + 0.5 * 5.0**2) / 2, rel=1e-6)


def test_the_clip_bounds_the_global_norm_and_leaves_small_gradients_alone():
    large, small = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    clip_by_norm(large, 1.0)
    clip_by_norm(small, 1.0)
    assert large.norm() == pytest.approx(1.0, rel=1e-5)
    assert small.tolist() == pytest.approx([0.3, 0.4])


def test_the_learner_clips_before_it_steps():
    learner = make_learner(clip=1e-3)
    learner.update(make_batch())
    assert learner.online.gradient.norm() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("optimizer", [FusedAdam, PlainAdam])
def test_adam_equals_torch_for_200_steps_with_a_change_of_rate(optimizer):
    weights = torch.linspace(-1, 1, 7)
    ours = optimizer(weights.clone(), torch.zeros(7), 1e-2)
    theirs = nn.Parameter(weights.clone())
    reference = torch.optim.Adam([theirs], lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for step in range(200):
        if step == 100:
            ours.learning_rate.fill_(1e-3)
            reference.param_groups[0]["lr"] = 1e-3
        gradient = torch.randn(7, generator=generator)
        ours.gradient.copy_(gradient)
        theirs.grad = gradient.clone()
        ours.step()
        reference.step()
    torch.testing.assert_close(ours.weights, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("head", [PlainHead, DuelingHead])
def test_the_flat_update_equals_plain_torch_for_200_updates(head):
    learner = make_learner(head=head, clip=1.0)
    torch.manual_seed(0)
    online = QNetwork(MLP(3, (16,)), head(16, Outputs(2)))
    target = QNetwork(MLP(3, (16,)), head(16, Outputs(2)))
    target.load_state_dict(online.state_dict())
    adam = torch.optim.Adam(online.parameters(), lr=1e-3)
    for update in range(1, 201):
        batch = make_batch(update)
        learner.update(batch)
        with torch.no_grad():
            best = online(batch.next_obs).argmax(1, keepdim=True)
            y = batch.reward + batch.discount * target(batch.next_obs).gather(1, best).squeeze(1)
        q = online(batch.obs).gather(1, batch.action[:, None]).squeeze(1)
        adam.zero_grad()
        nn.functional.mse_loss(q, y).backward()
        nn.utils.clip_grad_norm_(online.parameters(), 1.0)
        adam.step()
        if update % 10 == 0:
            target.load_state_dict(online.state_dict())
    for name, value in online.named_parameters():
        torch.testing.assert_close(
            learner.online.named_tensors()[name], value, rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_traced_equals_eager_for_200_updates_through_a_load_and_a_change_of_rate():
    reference = make_learner(clip=1.0)
    fast = make_learner(optimizer=PlainAdam, capture=traced, clip=1.0)
    fast.prepare(make_batch())
    for update in range(200):
        if update == 80:
            for learner in (reference, fast):
                learner.online.weights.mul_(0.5)
        if update == 140:
            for learner in (reference, fast):
                learner.optimizer.learning_rate.fill_(1e-4)
        batch = make_batch(update)
        torch.testing.assert_close(
            fast.update(batch), reference.update(batch), rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(fast.online.weights, reference.online.weights, rtol=1e-3, atol=1e-4)
    fast.online.check_views()


def test_warm_up_changes_nothing():
    prepared, fresh = make_learner(clip=1.0), make_learner(clip=1.0)
    prepared.prepare(make_batch(9))
    assert prepared.updates == 0
    for learner in (prepared, fresh):
        learner.update(make_batch())
    assert torch.equal(prepared.online.weights, fresh.online.weights)
    assert prepared.report() == fresh.report()


def test_importance_weights_scale_each_loss():
    batch = make_batch(size=2)
    half = batch._replace(weight=torch.tensor([1.0, 0.0]))
    one = make_learner()
    first = (make_learner().update(batch) ** 2)[0].item()
    one.update(half)
    assert one.report().loss == pytest.approx(first / 2, rel=1e-5)


def test_flat_views_follow_the_weights_and_offsets_are_cache_lines():
    flat = FlatParameters(nn.Linear(3, 5), CPU)
    assert flat.weights.numel() == 32
    assert flat.module.bias.data_ptr() - flat.module.weight.data_ptr() == 64
    flat.weights.fill_(2.0)
    assert flat.module.weight.unique().tolist() == [2.0]
    assert flat.module.bias.unique().tolist() == [2.0]


def test_a_twin_has_its_own_memory_and_an_alias_shares_it():
    flat = FlatParameters(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None,
                          track_running_stats=False)), CPU)  # fmt: skip
    twin, alias = flat.frozen_twin(), flat.eval_alias()
    flat.weights.fill_(3.0)
    assert next(alias.parameters()).unique().tolist() == [3.0]
    assert 3.0 not in next(twin.module.parameters()).tolist()[0]
    twin.copy_from(flat)
    assert torch.equal(twin.weights, flat.weights)
    assert not alias.training
    assert not twin.module.training
    assert flat.module.training


def test_buffers_are_copied_to_the_target():
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    flat = FlatParameters(module, CPU)
    twin, alias = flat.frozen_twin(), flat.eval_alias()
    before = twin.buffers.clone()
    flat.buffers.neg_()  # as a training forward pass moves u and v, unless they have settled
    assert torch.equal(twin.buffers, before)
    twin.copy_from(flat)
    x = torch.randn(2, 4)
    torch.testing.assert_close(twin.module(x), alias(x))


def test_a_parameter_of_another_dtype_is_rejected_by_name():
    with pytest.raises(ValueError, match=r"weight is torch\.float64"):
        FlatParameters(nn.Linear(2, 2).double(), CPU)


def test_broken_views_are_detected():
    flat = FlatParameters(nn.Linear(2, 2), CPU)
    flat.module.zero_grad(set_to_none=True)
    with pytest.raises(AssertionError, match="gradient of weight"):
        flat.check_views()
    flat = FlatParameters(nn.Linear(2, 2), CPU)
    flat.module.weight.data = torch.zeros(2, 2)
    with pytest.raises(AssertionError, match="weight left"):
        flat.check_views()


def test_hard_copies_fall_due_exactly_at_fractions():
    online, target = (FlatParameters(nn.Linear(1, 1), CPU) for _ in range(2))
    follower = HardCopy(Fraction(5, 2))
    due = [update for update in range(1, 11) if follower.follow(update, online, target)]
    assert due == [3, 5, 8, 10]
    assert torch.equal(online.weights, target.weights)


def test_polyak_moves_by_tau_and_only_when_due():
    online, target = (FlatParameters(nn.Linear(1, 1), CPU) for _ in range(2))
    online.weights.fill_(1.0)
    target.weights.fill_(0.0)
    follower = PolyakAverage(Fraction(2), 0.25)
    assert not follower.follow(1, online, target)
    assert follower.follow(2, online, target)
    assert target.weights.unique().tolist() == [0.25]
    with pytest.raises(ValueError, match="tau is 0"):
        PolyakAverage(Fraction(1), 0.0)


@pytest.mark.parametrize("every", [Fraction(1), Fraction(1, 4), Fraction(2, 5), Fraction(3, 4)])
@pytest.mark.parametrize("tau", [0.05, 0.7, 1.0])
def test_target_updates_that_fall_due_between_two_gradient_steps_are_all_made(every, tau):
    """As a loop over steps makes them: with an update per 4 steps and a target update per step,
    the target has moved by 1 - 0.95^40 = 0.87 after 40 steps, not by 1 - 0.95^10 = 0.40."""
    online, target = (FlatParameters(nn.Linear(1, 1), CPU) for _ in range(2))
    online.weights.fill_(1.0)
    target.weights.fill_(0.0)
    follower = PolyakAverage(every, tau)
    assert follower.within == (every.numerator == 1)
    for update in range(1, 11):
        assert follower.together(update - 1, 8) == (8 if follower.within else 1)
        follower.step(online, target)
        follower.follow(update, online, target)
        assert target.weights[0].item() == pytest.approx(1 - (1 - tau) ** int(update / every))


def test_the_target_is_frozen_between_copies():
    learner = make_learner(every=3)
    before = learner.target.weights.clone()
    for update in range(1, 4):
        learner.update(make_batch(update))
        assert torch.equal(learner.target.weights, before) == (update < 3)
    assert torch.equal(learner.target.weights, learner.online.weights)


def test_an_unsuitable_torso_is_rejected_with_its_input():
    with pytest.raises(ValueError, match=r"float32 \[B, 5\]"):
        count_features(nn.Linear(4, 8), (5,))
    with pytest.raises(ValueError, match=r"features \[B, F\]"):
        count_features(nn.Flatten(0), (5,))


class First(nn.Module):
    def forward(self, features, draw):
        return features


def test_byte_observations_reach_the_network_scaled():
    network = QNetwork(nn.Flatten(), First(), obs_scale=1 / 255)
    out = network(torch.tensor([[0, 51, 255]], dtype=torch.uint8))
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.2, 1.0]]))


def make_policy(learner, seed=0):
    return Policy(learner.online.eval_alias(), learner.value, CPU, (3,), num_actions=2, seed=seed)


def test_the_policy_uses_the_weights_of_every_update_and_load():
    learner = make_learner(learning_rate=0.05)
    policy = make_policy(learner)
    obs = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    for update in range(30):
        learner.update(make_batch(update))
        expected = learner.online.module(torch.from_numpy(obs)).argmax(1).numpy()
        np.testing.assert_array_equal(policy(obs), expected)
    learner.online.weights.neg_()
    expected = learner.online.module(torch.from_numpy(obs)).argmax(1).numpy()
    np.testing.assert_array_equal(policy.act(obs, 0.0), expected)


def test_each_environment_draws_its_own_exploration():
    policy = make_policy(make_learner())
    obs = np.zeros((1000, 3), np.float32)
    greedy = policy(obs)[0]
    assert (policy.act(obs, 1.0) != greedy).mean() == pytest.approx(0.5, abs=0.06)
    assert (policy.act(obs, 0.4) != greedy).mean() == pytest.approx(0.2, abs=0.05)
    per_lane = np.repeat([0.0, 1.0], 500)
    assert not (policy.act(obs, per_lane) != greedy)[:500].any()


def test_equal_seeds_explore_alike_and_others_do_not():
    learner = make_learner()
    obs = np.zeros((200, 3), np.float32)
    first, same, other = (make_policy(learner, seed).act(obs, 1.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_staging_on_the_cpu_is_the_same_memory():
    host = Batch(*(np.zeros((4, 2), np.float32) for _ in range(7)))
    staging = Staging(host, CPU)
    staging.host.obs[:] = 7.0
    staging.upload()
    assert staging.device.obs.unique().tolist() == [7.0]
    assert staging.device.next_mask is None
