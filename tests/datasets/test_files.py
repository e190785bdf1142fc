"""Episodes in .npz files and Minari data sets: what is read, and what is refused in one line."""

from typing import Any, cast

import numpy as np
import pytest
from gymnasium import spaces

from fastdqn.datasets import DatasetError, read_minari, read_npz, save_npz
from fastdqn.envs import read_spaces

BOX = spaces.Box(-10, 10, (2,), np.float32)
THREE = spaces.Discrete(3, start=5)
GOOD = {
    "episode_lengths": np.array([2, 1]),
    "observations": np.arange(10, dtype=np.float32).reshape(5, 2),
    "actions": np.array([5, 7, 6]),
    "rewards": np.array([0.5, -1.0, 2.0]),
    "terminations": np.array([False, True, False]),
    "truncations": np.array([False, False, True]),
}


def read(path, space: spaces.Space = BOX, **changes):
    np.savez(path, **{k: v for k, v in {**GOOD, **changes}.items() if v is not None})
    return read_npz(path, read_spaces(space, THREE), space)


def test_a_file_is_read_as_the_environment_returns_it(tmp_path):
    episodes = read(tmp_path / "data.npz")
    assert episodes.lengths.tolist() == [2, 1]
    assert episodes.action.tolist() == [0, 2, 1]  # counted from 0
    assert episodes.reward.tolist() == [0.5, -1.0, 2.0]
    assert episodes.terminated.tolist() == [False, True, False]
    assert episodes.truncated.tolist() == [False, False, True]
    assert episodes.observations(np.array([0, 4])).tolist() == [[0.0, 1.0], [8.0, 9.0]]


def test_discrete_observations_become_one_hot(tmp_path):
    episodes = read(
        tmp_path / "data.npz", spaces.Discrete(4), observations=np.array([0, 3, 1, 2, 0])
    )
    assert episodes.observations(np.array([1])).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": None}, "has no actions: it has episode_lengths, observations"),
        ({"actions": np.array([5, 8, 6])}, "action 1 is 8: the environment has the actions 5 to 7"),
        ({"actions": np.array([5, 2**63 + 9, 6], np.uint64)}, f"action 1 is {2**63 + 9}: the env"),
        ({"episode_lengths": np.array([2**63 + 2, 1], np.uint64)}, f"must have .{2**63 + 3},"),
        ({"actions": np.array([5.0, 6.0, 7.0])}, "actions is of dtype float64, must be integers"),
        ({"rewards": np.array([0.0, np.nan, 0.0])}, "reward 1 is nan: rewards must be finite"),
        (
            {"rewards": np.array([0.0, 0.0, -1e300])},
            "reward 2 is -1e\\+300: rewards must be finite in",
        ),
        (
            {"action_masks": np.ones((3, 3), bool)},
            r"action_masks has shape \(3, 3\) and dtype bool",
        ),
        ({"action_masks": np.zeros((5, 3), bool)}, "action_masks 0 is all false: each observation"),
        ({"action_masks": np.ones((5, 3))}, "dtype float64, must be bool"),
        ({"rewards": np.zeros(2)}, r"rewards has shape \(2,\), must have \(3,\)"),
        ({"episode_lengths": np.array([3, 0])}, "the shortest of 0 transitions"),
        ({"episode_lengths": np.array([], int)}, "has 0 episodes"),
        ({"terminations": np.array([True, False, False])}, "transition 0 is terminated or trunc"),
        ({"terminations": np.array([0, 2, 0])}, "terminations has other values than 0 and 1"),
        ({"observations": np.zeros((4, 2), np.float32)}, "observations has 4 rows, must have 5"),
        ({"observations": np.zeros((5, 3), np.float32)}, "do not fit the environment"),
        ({"observations": np.full((5, 2), np.inf)}, "observation 0 is not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(DatasetError, match=said) as caught:
        read(tmp_path / "data.npz", **changes)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "data.npz") in str(caught.value)


@pytest.mark.parametrize(
    ("space", "values", "said"),
    [
        (spaces.Box(0, 255, (2,), np.uint8), 0.5, "has the value 0.5: the environment has whole"),
        (spaces.Box(0, 255, (2,), np.uint8), 300, "the value 300: .* from 0 to 255 .uint8"),
        (spaces.Box(0, 255, (2,), np.uint8), -1, "the value -1"),
        (spaces.Box(0, 255, (2,), np.uint8), np.nan, "the value nan"),
        (spaces.Box(-9, 9, (2,), np.int64), np.float32(1.5), "the value 1.5"),
        (spaces.Box(-9, 9, (2,), np.int64), np.float16(1.5), "the value 1.5"),
        (spaces.Box(-9, 9, (2,), np.int64), np.float32(2**63), r"the value 9\.22337\d*e.18"),
        (spaces.Box(-9, 9, (2,), np.int64), np.uint64(2**63), f"the value {2**63}: .* from -9"),
        (spaces.Box(0, 1, (2,), cast(Any, np.bool_)), 2, "the value 2: .* from 0 to 1"),
        (spaces.MultiBinary(2), np.int8(5), "the value 5: .* from 0 to 1"),
        (spaces.MultiDiscrete([3, 3]), 0.5, "the value 0.5"),
        (BOX, 1 + 2j, "observations is of dtype complex128, must be numbers"),
        (BOX, "1.5", "observations is of dtype <U3, must be numbers"),
    ],
)
def test_observations_that_would_be_stored_as_others_are_refused(tmp_path, space, values, said):
    with pytest.raises(DatasetError, match=said):
        read(tmp_path / "data.npz", space, observations=np.full((5, 2), values))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_bytes_may_be_recorded_as_other_numbers(tmp_path, dtype):
    space = spaces.Box(0, 255, (2,), np.uint8)
    given = np.array([[0, 255], [1, 2], [3, 4], [5, 6], [7, 8]])
    episodes = read(tmp_path / "data.npz", space, observations=given.astype(dtype))
    assert episodes.observations(np.arange(5)).tolist() == given.tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.uint64])
def test_whole_numbers_may_be_recorded_as_bool(tmp_path, dtype):
    given = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
    space = spaces.Box(0, 1, (2,), dtype)
    episodes = read(tmp_path / "data.npz", space, observations=given.astype(np.bool_))
    assert episodes.observations(np.arange(5)).tolist() == given.tolist()


def test_files_that_are_no_npz_are_refused_in_one_line(tmp_path):
    facts = read_spaces(BOX, THREE)
    (tmp_path / "text.npz").write_text("no zip file")
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    (tmp_path / "array.npz").write_bytes((tmp_path / "array.npz.npy").read_bytes())
    np.savez(tmp_path / "pickled.npz", actions=np.array([{}], object))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04" + b"0" * 40)
    for name in ("text", "array", "pickled", "cut", "missing"):
        with pytest.raises(DatasetError, match=name):
            read_npz(tmp_path / f"{name}.npz", facts, BOX)


def test_masks_are_required_where_the_environment_has_them(tmp_path):
    facts = read_spaces(BOX, THREE)._replace(has_masks=True)
    np.savez(tmp_path / "data.npz", **GOOD)
    with pytest.raises(DatasetError, match="has no action_masks"):
        read_npz(tmp_path / "data.npz", facts, BOX)
    masks = np.eye(5, 3, dtype=bool) | [True, False, False]
    np.savez(tmp_path / "data.npz", action_masks=masks, **GOOD)
    found = read_npz(tmp_path / "data.npz", facts, BOX).masks
    assert found is not None
    assert found(np.array([1, 4])).tolist() == masks[[1, 4]].tolist()


@pytest.mark.parametrize("row", range(5))
def test_only_the_last_mask_of_a_terminated_episode_may_allow_no_action(tmp_path, row):
    facts = read_spaces(BOX, THREE)._replace(has_masks=True)
    masks = np.eye(5, 3, dtype=bool) | [True, False, False]
    masks[row] = False
    np.savez(tmp_path / "data.npz", action_masks=masks, **GOOD)
    if row != 2:
        with pytest.raises(DatasetError, match=f"action_masks {row} is all false"):
            read_npz(tmp_path / "data.npz", facts, BOX)
        return
    found = read_npz(tmp_path / "data.npz", facts, BOX).masks
    assert found is not None
    assert found(np.array([2])).tolist() == [[True, True, True]]  # as environments do it


def test_good_masks_are_left_out_where_the_environment_has_none(tmp_path):
    assert read(tmp_path / "data.npz", action_masks=np.ones((5, 3), np.int8)).masks is None


def test_saved_episodes_are_read_back(tmp_path):
    path = tmp_path / "data.npz"
    save_npz(
        path,
        [
            {
                "observations": np.array([[0, 1], [2, 3], [4, 5]], np.float32),
                "actions": [5, 7], "rewards": [0.5, -1.0], "terminations": [False, True],
            },
            {
                "observations": np.array([[6, 7], [8, 9]], np.float32),
                "actions": [6], "rewards": [2.0], "truncations": [True],
            },
        ],
    )  # fmt: skip
    with np.load(path) as stored:
        assert {name: stored[name].tolist() for name in stored.files} == {
            name: value.tolist() for name, value in GOOD.items()
        }


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        ([], "there are no episodes"),
        ([{"observations": [[0, 0]], "actions": [], "rewards": []}], "at least one transition"),
        ([{"observations": [[0, 0]], "actions": [5], "rewards": [0]}], "must have 2"),
    ],
)
def test_episodes_that_cannot_be_saved_are_refused(tmp_path, episodes, said):
    with pytest.raises(ValueError, match=said):
        save_npz(tmp_path / "data.npz", episodes)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return pytest.importorskip("minari")


@pytest.mark.filterwarnings("ignore:.*env.* is .*None:UserWarning")
def test_a_minari_data_set_is_read(minari):
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]

    observations = [np.arange(6).reshape(3, 2), np.arange(6, 10).reshape(2, 2)]
    buffer: Any = EpisodeBuffer  # its annotations lack arrays
    parts = [
        buffer(
            id=number, observations=obs.astype(np.float32), actions=np.array(actions),
            rewards=rewards, terminations=[False] * (len(actions) - 1) + [ends],
            truncations=[False] * (len(actions) - 1) + [not ends], infos={},
        )
        for number, (obs, actions, rewards, ends) in enumerate(
            zip(observations, [[5, 7], [6]], [[0.5, -1.0], [2.0]], [True, False], strict=True)
        )
    ]  # fmt: skip
    minari.create_dataset_from_buffers(
        "box/test-v0", parts, observation_space=BOX, action_space=THREE, algorithm_name="none",
        author="nobody", author_email="nobody@example.org", code_permalink="none",
        description="two episodes",
    )  # fmt: skip
    episodes = read_minari("box/test-v0", read_spaces(BOX, THREE), BOX)
    assert episodes.lengths.tolist() == [2, 1]
    assert episodes.action.tolist() == [0, 2, 1]
    assert episodes.reward.tolist() == [0.5, -1.0, 2.0]
    assert episodes.terminated.tolist() == [False, True, False]
    assert episodes.truncated.tolist() == [False, False, True]
    assert episodes.observations(np.arange(5)).tolist() == np.concatenate(observations).tolist()


def test_a_minari_data_set_that_is_not_here_is_one_line(minari):
    with pytest.raises(DatasetError, match="download it with minari download cartpole/none-v0"):
        read_minari("cartpole/none-v0", read_spaces(BOX, THREE), BOX)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_of_a_minari_data_set_is_one_line(name):
    said = f"'minari:{name}' names no data set: use minari:ID, such as minari:cartpole/expert-v0 "
    with pytest.raises(DatasetError, match=said):
        read_minari(name, read_spaces(BOX, THREE), BOX)


def test_without_minari_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"pip install 'fastdqn\[minari\]'"):
        read_minari("cartpole/none-v0", read_spaces(BOX, THREE), BOX)
