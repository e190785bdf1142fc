"""Random inputs of a pass: buffers in place, nothing drawn without need, restored states."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastdqn.learning.bootstrap_targets import DoubleBackup, MaxBackup
from fastdqn.learning.implicit_quantile import ImplicitQuantileValue
from fastdqn.learning.munchausen import MunchausenBackup
from fastdqn.learning.quantile import QuantileValue
from fastdqn.learning.random_inputs import MEANS, Draws, LaneNoise, NoNoise, fill_noise
from fastdqn.state_dict import StateError

CPU = torch.device("cpu")


def make(noise_size=5, num_fractions=(3, 4, 0, 2), seed=0) -> Draws:
    return Draws(8, noise_size, num_fractions, CPU, seed)


def tensors(draws: Draws) -> Iterator[Tensor]:
    for draw in draws.passes:
        yield from (each for each in draw if each is not None)


def test_each_pass_gets_its_shapes():
    passes = make().passes
    noise, fractions = zip(*passes, strict=True)
    assert list(map(shape, noise)) == [(1, 5)] * 4
    assert list(map(shape, fractions)) == [(8, 3), (8, 4), None, (8, 2)]


def shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


@pytest.mark.parametrize(
    ("backup", "expected"),
    [
        (MaxBackup(), (5, 6 + 7, 0, 0)),
        (DoubleBackup(), (5, 6, 7, 0)),
        (MunchausenBackup(0.9, 0.03, -1.0), (5, 6 + 7, 0, 7)),
    ],
)
def test_a_backup_gets_fractions_for_its_passes_only(backup, expected):
    """N = 5, N' = 6, K = 7; of online at obs, target at next_obs, online there, target at obs."""
    value = ImplicitQuantileValue(num_target_fractions=6, num_policy_fractions=7, num_fractions=5)
    assert value.fractions_of_passes(backup) == expected
    assert QuantileValue(5).fractions_of_passes(backup) == (0, 0, 0, 0)


def test_a_refresh_changes_every_number_in_place():
    draws = make()
    before = [(each.data_ptr(), each.clone()) for each in tensors(draws)]
    draws.refresh()
    for (place, old), new in zip(before, tensors(draws), strict=True):
        assert new.data_ptr() == place
        assert (new != old).all()


def test_no_two_passes_share_numbers():
    draws = make(num_fractions=(2, 2, 2, 2))
    draws.refresh()
    for field in ("noise", "fractions"):
        everything = torch.cat([getattr(each, field).flatten() for each in draws.passes])
        assert everything.unique().numel() == everything.numel()


def test_nothing_is_drawn_if_nothing_is_needed():
    draws = make(noise_size=0, num_fractions=(0, 0, 0, 0))
    before = draws.state()["generator"].copy()
    draws.refresh()
    assert (draws.state()["generator"] == before).all()
    assert all(draw == MEANS for draw in draws.passes)


def test_fractions_are_uniform_from_0_to_below_1():
    draws = make(noise_size=0, num_fractions=(500, 0, 0, 0))
    seen = []
    for _ in range(20):
        draws.refresh()
        seen.append(next(tensors(draws)).clone())
    fractions = torch.cat(seen)
    assert fractions.min() >= 0.0
    assert fractions.max() < 1.0
    assert fractions.mean().item() == pytest.approx(0.5, abs=0.005)
    assert fractions.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_noise_has_the_moments_of_the_root_of_a_normal_number():
    """x normal: f(x) = sign(x) sqrt|x| has E f = 0, E f^2 = E|x| = sqrt(2 / pi),
    E|f| = 2^(1/4) Gamma(3/4) / sqrt(pi)."""
    noise = torch.empty(200_000)
    fill_noise(noise, torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(0.79788, abs=0.01)
    assert noise.abs().mean().item() == pytest.approx(0.82217, abs=0.005)
    assert (noise > 0).float().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("noise_size", [3, 40])  # torch draws few and many in different ways
def test_draws_continue_from_a_state(noise_size):
    one, two = make(noise_size), make(noise_size, seed=9)
    one.refresh()
    two.load_state(one.state())
    for _ in range(3):
        one.refresh()
        two.refresh()
        assert all(map(torch.equal, tensors(one), tensors(two)))


def test_equal_seeds_draw_alike_and_others_do_not():
    first, same, other = make(seed=1), make(seed=1), make(seed=2)
    for each in (first, same, other):
        each.refresh()
    assert all(map(torch.equal, tensors(first), tensors(same)))
    assert not any(map(torch.equal, tensors(first), tensors(other)))


@pytest.mark.parametrize("noise_size", [3, 40])
def test_noise_differs_by_environment_and_call_and_continues_from_a_state(noise_size):
    one, two = LaneNoise(noise_size, CPU, seed=0), LaneNoise(noise_size, CPU, seed=9)
    first = noise_of(one, 6)
    assert first.shape == (6, noise_size)
    assert first.unique().numel() == first.numel()
    state = one.state()
    again = noise_of(one, 6)
    assert (again != first).all()
    noise_of(two, 9)  # more lanes than are asked for later
    two.load_state(state)
    assert torch.equal(noise_of(two, 6), again)


def noise_of(lanes: LaneNoise, num_lanes: int) -> Tensor:
    """A copy: the next call draws into the same memory."""
    noise = lanes(num_lanes).noise
    assert noise is not None
    return noise.clone()


def test_without_noise_there_is_nothing_to_draw_or_keep():
    assert NoNoise()(7) == MEANS
    assert NoNoise().state() == {}


@pytest.mark.parametrize("make_one", [make, lambda: LaneNoise(3, CPU, 0)])
def test_invalid_generator_states_are_rejected(make_one):
    one = make_one()
    state = one.state()
    with pytest.raises(StateError, match="generator"):
        one.load_state({"generator": state["generator"][:-1]})
    with pytest.raises(StateError, match="generator"):
        one.load_state({"generator": state["generator"] * 0})
