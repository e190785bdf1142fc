"""Q-table: from observations to states, and the update of a transition."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdqn.envs import EnvStream, ObsReader
from fastdqn.tabular.discretizer import Cells, Discretizer, cut, power, too_large
from fastdqn.tabular.q_learning import LastStep, QLearner, Transitions, learn
from fastdqn.tabular.q_table import TablePolicy
from helpers.oracles import ScriptedEnv, lived_alone, random_script, scripted_action
from helpers.oracles_tables import q_learning, state_of

TRUTHS = spaces.Box(0, 1, (2,), np.bool_)  # pyright: ignore[reportCallIssue, reportArgumentType]
VELOCITY = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))


def states(space, values, bins=(20,), low=None, high=None, env_id=""):
    """States of a batch of raw observations, and how many there are."""
    reader, found = ObsReader(space), cut(space, env_id, bins, low, high)
    return Discretizer(found.cells, reader.shape)(reader(values)).tolist(), found.cells.num_states


def test_a_number_is_divided_into_equal_bins_with_open_ends():
    box = spaces.Box(-1, 1, (1,), np.float32)
    values = np.array([[-9], [-1], [-0.51], [-0.5], [0], [0.49], [0.5], [1], [9], [np.nan]])
    assert states(box, values, bins=(4,)) == ([0, 0, 0, 1, 2, 2, 3, 3, 3, 0], 4)


def test_digits_count_from_the_first_number_to_the_last():
    box = spaces.Box(np.array([0, 0]), np.array([1, 3]), dtype=np.float32)
    values = np.array([[0, 0], [0, 2.5], [0.9, 0], [0.9, 2.5]])
    assert states(box, values, bins=(2, 3)) == ([0, 2, 3, 5], 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "values", "expected"),
    [
        (spaces.Discrete(5, start=3), np.array([3, 7]), ([0, 4], 5)),
        (spaces.Discrete(1), np.array([0, 0]), ([0, 0], 1)),
        (spaces.MultiDiscrete([2, 3]), np.array([[1, 0], [1, 2]]), ([3, 5], 6)),
        (spaces.MultiBinary(3), np.array([[0, 0, 1], [1, 1, 0]]), ([1, 6], 8)),
        (TRUTHS, np.array([[True, False], [True, True]]), ([2, 3], 4)),
        (spaces.Box(-1, 2, (1,), np.int8), np.array([[-1], [2]]), ([0, 3], 4)),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([[0], [255]]), ([0, 19], 20)),
        (
            spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)]),
            (np.array([31, 1]), np.array([10, 2]), np.array([1, 0])),
            ([703, 26], 704),
        ),
        (
            spaces.Dict({"at": spaces.Box(0, 1, (1,), np.float32), "to": spaces.Discrete(3)}),
            {"at": np.array([[0.99], [0]]), "to": np.array([2, 1])},
            ([59, 1], 60),
        ),
        (
            spaces.Dict({"byte": spaces.Box(0, 255, (1,), np.uint8), "x": VELOCITY}),
            {"byte": np.array([[127], [128]]), "x": np.zeros((2, 2))},
            ([9 * 400 + 210, 10 * 400 + 210], 8000),
        ),
    ],
)
def test_every_space_that_flattens_has_states(space, values, expected):
    has_open_bounds = isinstance(space, spaces.Dict) and "x" in space.spaces
    low, high = ((-1.0,), (1.0,)) if has_open_bounds else (None, None)
    assert states(space, values, low=low, high=high) == expected


def test_missing_bounds_must_be_set_or_have_a_default():
    with pytest.raises(ValueError, match=r"numbers 1 .*--low") as error:
        cut(VELOCITY, "", (20,), None, None)
    assert len(str(error.value).split("\n")) == 2  # --high, too
    for asked in ((3.0,), (1.0, 3.0)):
        found = cut(VELOCITY, "", (20,), tuple(-bound for bound in asked), asked)
        assert found.cells.low.tolist() == [-1, -3]
        assert found.cells.high.tolist() == [1, 3]
    found = cut(VELOCITY, "CartPole-v1", (20,), None, None)
    assert found.cells.high.tolist() == [1, 4]
    assert found.source.tolist() == ["from the space", "default"]


@pytest.mark.parametrize(
    ("bins", "low", "high", "line"),
    [
        ((2, 3, 4), (-3.0,), (3.0,), "bins has 3 numbers: give one, or one for each of the 2"),
        ((2,), (-3.0,) * 3, (3.0,), "low has 3 numbers"),
        ((2,), (-3.0,), (-3.0,), "low is -3 and high is -3 for number 1"),
    ],
)
def test_invalid_bins_and_bounds_are_rejected(bins, low, high, line):
    with pytest.raises(ValueError, match=line):
        cut(VELOCITY, "", bins, low, high)


def test_any_number_of_states_is_counted():
    assert power(np.array([20] * 4)) == "20^4 = 160,000"
    assert power(np.array([32, 11, 2])) == "32 x 11 x 2 = 704"
    assert power(np.array([16])) == "16"
    pixels = spaces.Box(0, 255, (210, 160), np.uint8)
    line = too_large(cut(pixels, "", (128,), None, None), pixels, "Game-v0", 12, 1 << 30)
    assert line == (
        "210 x 160 pixels of 128 colours: 128^33600, about 10^70802 states are too many, memory "
        "has room for 89,478,485: use a network: fastdqn train Game-v0"
    )
    box = spaces.Box(0, 1, (4,), np.float32)
    line = too_large(cut(box, "", (20,), None, None), box, "Box-v0", 1, 10_000)
    assert "use at most --bins 10, or a network" in line


@st.composite
def cells_and_rows(draw):
    """Digits of numbers and one-hot stretches, and float32 rows that they read."""
    digits, column = [], 0
    for _ in range(draw(st.integers(1, 4))):
        low, width = draw(st.floats(-100, 100)), draw(st.integers(1, 3))
        bins = width if width > 1 else draw(st.integers(1, 7))
        digits.append((column, width, bins, low, low + draw(st.floats(0.1, 100))))
        column += width
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    rows = rng.uniform(-150, 250, (5, column)).astype(np.float32)
    for first, width, *_ in digits:
        if width > 1:
            rows[:, first : first + width] = np.eye(width)[rng.integers(0, width, len(rows))]
    return digits, rows


@settings(max_examples=50, deadline=None)
@given(cells_and_rows())
def test_states_equal_the_slow_twin(case):
    digits, rows = case
    kinds = (np.int64, np.int64, np.int64, np.float64, np.float64)
    columns = map(np.array, zip(*digits, strict=True), kinds)
    discretizer = Discretizer(Cells(*columns), rows.shape[1:])
    assert discretizer(rows).tolist() == [state_of(row.tolist(), digits) for row in rows]


def test_a_batch_of_another_shape_is_rejected():
    discretizer = Discretizer(cut(spaces.Discrete(3), "", (1,), None, None).cells, (3,))
    with pytest.raises(ValueError, match=r"shape \(3,\), must be"):
        discretizer(np.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize(("terminated", "moved"), [(False, 1.3), (True, 1.1)])
def test_a_transition_updates_one_value_as_computed_by_hand(terminated, moved):
    """1 + 0.1 (2 + 0.5 x 4 - 1), and without a future 1 + 0.1 (2 - 1)."""
    table = np.array([[0.0, 1.0], [4.0, 3.0]])
    learner = QLearner(table, 0.5, lambda updates: 0.1)
    one = np.ones(1, np.int64)
    reward, no_mask = np.array([2], np.float32), np.ones((0, 2), np.bool_)
    ended = np.array([terminated])
    learner.update(Transitions(0 * one, one, reward, ended, one, no_mask))
    np.testing.assert_allclose(table, [[0.0, moved], [4.0, 3.0]])
    report = learner.report()
    assert (report.updates, report.q_value) == (1, 1.0)
    assert report.loss == pytest.approx((2 + 2 * (not terminated) - 1) ** 2)
    assert learner.report().updates == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_agrees_with_the_slow_twin(dtype, masked):
    rng, count, size = np.random.default_rng(1), 500, (6, 3)
    state, action, next_state = (rng.integers(0, n, count) for n in (6, 3, 6))
    reward = rng.normal(size=count).astype(np.float32)
    terminated = rng.random(count) < 0.2
    mask = rng.random((count if masked else 0, 3)) < 0.5  # some rows allow nothing
    table, twin = np.zeros(size, dtype), {}
    learn(table, state, action, reward, terminated, next_state, mask, 0.9, 0.3, np.zeros(2))
    allowed = [set(np.flatnonzero(row)) for row in mask] if masked else [{0, 1, 2}] * count
    columns = (state, action, reward.astype(float), terminated, next_state)
    lists = [column.tolist() for column in columns]
    q_learning(twin, list(zip(*lists, allowed, strict=True)), 3, 0.9, 0.3)
    expected = [[twin.get((s, a), 0.0) for a in range(3)] for s in range(6)]
    np.testing.assert_allclose(table, expected, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.slow
def test_the_best_allowed_action_is_greedy_and_of_equal_ones_the_first():
    found = cut(spaces.Discrete(2), "", (1,), None, None)
    policy = TablePolicy(np.array([[1.0, 3.0, 3.0], [0, 0, 0]]), Discretizer(found.cells, (2,)))
    obs = np.eye(2, dtype=np.uint8)
    mask = np.array([[1, 0, 1], [0, 1, 1]])
    assert policy(obs).tolist() == [1, 0]
    assert policy(obs, mask).tolist() == [2, 1]
    assert policy.expected(obs, mask).tolist() == [[1, -np.inf, 3], [-np.inf, 0, 0]]
    explored = [policy.act(obs, np.array([1.0, 0.0]), mask).tolist() for _ in range(50)]
    assert {action for action, _ in explored} == {0, 2}
    assert {action for _, action in explored} == {1}


@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
)
def test_each_transition_is_used_once_in_every_autoreset_mode(mode):
    """The last observation of an episode is a next state, and the reset's is the one acted on."""
    scripts = [random_script(np.random.default_rng(lane)) for lane in range(3)]
    bins, low, high = (3, 40, 6), (-0.5,) * 3, (2.5, 39.5, 5.5)
    cells = cut(ScriptedEnv(0, scripts[0]).observation_space, "", bins, low, high).cells
    discretizer = Discretizer(cells, (3,))
    lanes = [lambda i=i: ScriptedEnv(i, scripts[i]) for i in range(3)]
    stream = EnvStream(SyncVectorEnv(lanes, autoreset_mode=mode))
    delivery, taken = LastStep(discretizer, 3, stream.facts.num_actions), np.zeros(3, np.int64)
    told = [[] for _ in range(3)]
    delivery.append(stream.start(0))
    for _ in range(40):
        stream.send(np.array([scripted_action(i, int(taken[i])) for i in range(3)]))
        step = stream.recv()
        delivery.append(step)
        taken[step.lanes] += 1
        rows = zip(*(column.tolist() for column in delivery.device[:5]), strict=True)
        for lane, row in zip(step.lanes.tolist(), rows, strict=True):
            told[lane].append(row)
    for lane in range(3):
        model, _ = lived_alone(ScriptedEnv(lane, scripts[lane]), lane, len(told[lane]))
        expected = [
            (
                int(discretizer(e.obs[t][None])[0]), outcome.action, outcome.reward,
                outcome.terminated, int(discretizer(e.obs[t + 1][None])[0]),
            )
            for e in model.episodes
            for t, outcome in enumerate(e.outcomes)
        ]  # fmt: skip
        assert told[lane] == expected
        assert len(expected) > 20
