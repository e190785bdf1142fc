"""FrameStore gives the same stacks, bit for bit, as whole observations."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation

from fastdqn.config import atari_protocols
from fastdqn.envs import EnvStream
from fastdqn.replay import FrameStore, Replay, Ring, RowStore, UniformSampler
from fastdqn.replay.ring import DEAD, LIVE, OPEN
from helpers.oracle_priorities import make_prioritized
from helpers.oracles import (
    ScriptedEnv,
    Stacks,
    lived_alone,
    make_replay,
    random_script,
    scripted_action,
    valid_rows,
)

ENDS = [(False, False), (True, False), (False, True), (True, True)]


def both(num_lanes, rows, n_steps, stack, seed) -> tuple[Replay, Replay]:
    """Prioritized, so that what is drawn depends on which rows are valid, and on updates."""
    sizes = (num_lanes, rows, n_steps, 0.5, stack, (stack, 2), seed)
    return tuple(make_prioritized(*sizes, store=store)[0] for store in (FrameStore, RowStore))  # pyright: ignore[reportReturnType]


def assert_same_batches(rng: np.random.Generator, *replays: Replay) -> None:
    batches = [replay.new_batch(16) for replay in replays]
    priority = rng.exponential(size=16)
    for replay, batch in zip(replays, batches, strict=True):
        replay.sample(batch)
        replay.update_priorities(batch.index, priority)
    for name, one, other in zip(batches[0]._fields, *batches, strict=True):
        assert one is other or one.tobytes() == other.tobytes(), name


def step_both(replays, rng, obs: Stacks, ends) -> None:
    """Steps some open lanes, starts closed ones, and closes one or two."""
    ring = replays[0].ring
    lanes = np.arange(ring.num_lanes)
    is_open = ring.status[lanes, (ring.added - 1) % ring.rows] == OPEN
    begun = lanes[~is_open | (rng.random(len(lanes)) < 0.03)]
    stacks = obs.begin(begun)
    for replay in replays:
        replay.start(begun, stacks)
    stepped = lanes[rng.random(len(lanes)) < 0.8]
    stacks, reward = obs.step(stepped), rng.normal(size=len(stepped))
    over = np.array([ends[rng.integers(len(ends))] for _ in stepped], np.bool_).reshape(-1, 2).T
    closed = lanes[rng.random(len(lanes)) < 0.03]
    for replay in replays:
        replay.add(stepped, stepped, reward, stacks, *over)
        replay.close(closed)


@pytest.mark.parametrize("stack", [1, 2, 3, 4])
@pytest.mark.parametrize("num_lanes", [1, 3])
@pytest.mark.parametrize("ends", [ENDS[:1] * 9 + ENDS, ENDS[2:3], ENDS[:1]])
def test_both_stores_give_equal_bits_from_one_stream(stack, num_lanes, ends):
    for n_steps, rows in ((1, 2 * stack + 7), (3, 2 * stack + 24)):
        rng = np.random.default_rng(stack)
        replays = both(num_lanes, rows, n_steps, stack, seed=n_steps)
        obs = Stacks(num_lanes, stack)
        for turn in range(4 * rows):
            step_both(replays, rng, obs, ends)
            if turn % 3 == 0 and len(valid_rows(replays[0])):
                assert_same_batches(rng, *replays)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_stacks_are_the_environments_own_in_both_autoreset_modes(mode, padding):
    rng, stack = np.random.default_rng(3), 3
    scripts = [random_script(rng) for _ in range(2)]

    def lane(number: int):
        env = ScriptedEnv(number, scripts[number], obs_dtype=np.uint8)
        return FrameStackObservation(env, stack, padding_type=padding)

    stream = EnvStream(
        SyncVectorEnv([lambda i=i: lane(i) for i in range(2)], autoreset_mode=mode, copy=False)
    )
    assert stream.facts.stack == stack
    sizes = (2, 90, 2, 0.5, stack, stream.facts.obs_shape, np.uint8)
    replay = make_replay(*sizes, store=FrameStore)
    replay.append(stream.start(seed=0))
    taken = np.zeros(2, np.int64)
    for _ in range(200):
        stream.send(np.array([scripted_action(i, int(taken[i])) for i in range(2)]))
        step = stream.recv()
        taken[step.lanes] += 1
        replay.append(step)
    expected = {}
    for number in range(2):
        model, _ = lived_alone(lane(number), number, int(taken[number]))
        model.lead = stack - 1
        if not model.is_open and replay.ring.added[number] > model.added:
            model.start(lane(number).reset()[0])  # begun, and not yet acted in
        for row, window in model.windows(90, 2, 0.5, stack).items():
            expected[row * 2 + number] = window
    assert sorted(valid_rows(replay)) == sorted(expected)
    batch = replay.new_batch(64)
    replay.sample(batch)
    for i, row in enumerate(batch.index.tolist()):
        np.testing.assert_array_equal(batch.obs[i], expected[row].obs)
        np.testing.assert_array_equal(batch.next_obs[i], expected[row].next_obs)


def test_a_start_takes_a_row_for_each_frame_and_a_step_takes_one():
    replay = make_replay(rows=9, stack=3, obs_shape=(3, 2), store=FrameStore)
    obs = Stacks(1, 3)
    replay.start([0], obs.begin([0]))
    replay.add([0], [1], [1.0], obs.step([0]))
    assert replay.ring.status[0, :5].tolist() == [DEAD, DEAD, LIVE, OPEN, 0]
    assert replay.store.nbytes == 9 * 2 * 4


def test_a_stack_that_lost_a_frame_is_never_drawn_again():
    replay, sampler = make_prioritized(
        rows=8, stack=3, obs_shape=(3, 2), exponent=1.0, store=FrameStore
    )
    obs = Stacks(1, 3)
    replay.start([0], obs.begin([0]))
    for _ in range(6):  # rows 0 to 8: the first is overwritten, and row 2 loses a frame
        replay.add([0], [0], [0.0], obs.step([0]))
    assert sorted(valid_rows(replay)) == [3, 4, 5, 6, 7]
    assert sampler.tree.leaves[2] == 0
    replay.update_priorities(np.array([2]), np.array([1e6]))
    assert sampler.tree.leaves[2] == 0
    replay.start([0], obs.begin([0]))  # three rows at once
    assert np.flatnonzero(sampler.tree.leaves).tolist() == [6, 7]


def test_an_observation_that_does_not_shift_by_one_frame_is_rejected():
    replay = make_replay(3, stack=3, obs_shape=(3, 2), store=FrameStore)
    obs = Stacks(3, 3)
    replay.start([0, 1, 2], obs.begin([0, 1, 2]))
    for _ in range(3):
        replay.add([0, 1, 2], [0] * 3, [0.0] * 3, obs.step([0, 1, 2]))
    stacks = obs.step([0, 1, 2])
    stacks[1] = stacks[1, ::-1]
    replay.add([0, 1, 2], [0] * 3, [0.0] * 3, stacks)  # the check of lane 0
    stacks = obs.step([0, 1, 2])
    with pytest.raises(ValueError, match=r"env 1: .* newest 2 of the 3 frames .* --store rows"):
        replay.add([0, 1, 2], [0] * 3, [0.0] * 3, stacks)


@pytest.mark.parametrize(
    ("shape", "says"),
    [((), "not a stack of 1 to 9"), ((10, 2), "not a stack of 1 to 9"), ((3, 0), "are empty")],
)
def test_an_invalid_stack_is_rejected(shape, says):
    with pytest.raises(ValueError, match=says):
        FrameStore(2, 9, shape, np.uint8)


@pytest.mark.slow
def test_a_ring_with_another_stack_is_rejected():
    with pytest.raises(ValueError, match="stacks 4 frames, but the ring 1"):
        Replay(Ring(1, 9), FrameStore(1, 9, (4, 2), np.uint8), UniformSampler(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frame", "dtype"),
    [((84, 84), np.uint8), ((5, 7), np.uint8), ((3,), np.float32), ((), np.float64), ((9,), bool)],
)
def test_frames_of_any_dtype_are_returned_unchanged(frame, dtype):
    rng = np.random.default_rng(0)
    stack, rows = 4, 11
    frames = rng.integers(0, 2, (20, *frame)).astype(dtype)
    store = FrameStore(2, rows, (stack, *frame), dtype)
    store.begin(np.array([rows + 3]), frames[None, :stack])
    for t in range(stack, 20):  # around the end of the second lane
        store.write(np.array([rows + t % rows]), frames[None, t - stack + 1 : t + 1])
    out = np.zeros((8, stack, *frame), dtype)
    store.gather(rows + np.arange(12, 20) % rows, out)
    for i, t in enumerate(range(12, 20)):
        np.testing.assert_array_equal(out[i], frames[t - stack + 1 : t + 1])


def test_rows_on_their_way_to_a_checkpoint_are_single_frames_and_give_the_same_stacks():
    rng, obs = np.random.default_rng(7), Stacks(2, 3)
    first, again = (both(2, 17, 2, 3, seed)[0] for seed in (1, 2))
    segments, saved = [], np.zeros(2, np.int64)
    for _ in range(6):
        for _ in range(8):
            step_both((first,), rng, obs, ENDS)
        told = first.bytes_since(saved)
        segments.append(first.rows_since(saved))
        saved = segments[-1].last.copy()
        columns = segments[-1].columns
        assert columns["obs"].shape == (len(columns["action"]), 2)
        assert first.layout().columns["obs"] == (np.float32, (2,))
        assert sum(column.nbytes for column in columns.values()) <= told + 16
    again.load_state(first.state(), segments)
    for _ in range(40):
        assert_same_batches(np.random.default_rng(1), first, again)
        step_both((first, again), rng, obs, ENDS)
    assert isinstance(first.store.by_row, RowStore)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "mode", "steps"),
    [("pong", "NextStep", 600), ("pong", "SameStep", 600), ("breakout", "SameStep", 600),
     ("breakout", "NextStep", 3_000)],
)  # fmt: skip
def test_atari_stacks_equal_ales_bytes(game, mode, steps):
    pytest.importorskip("ale_py")
    from ale_py.vector_env import AtariVectorEnv

    limit = 80 if game == "pong" else 1_000  # frames: cut episodes there, lost lives elsewhere
    own = {"img_height": 20, "img_width": 20, "max_num_frames_per_episode": limit, "noop_max": 5}
    told = atari_protocols.settings("dqn2015", own) | {"reward_clipping": False}
    stream = EnvStream(AtariVectorEnv(game, 2, autoreset_mode=mode, num_threads=1, **told))
    sizes = (2, 97, 3, 0.5, 4, (4, 20, 20), np.uint8)
    frames, whole = (make_replay(*sizes, store=store) for store in (FrameStore, RowStore))
    rng, begun, cut, step = np.random.default_rng(0), 0, 0, stream.start(seed=1)
    for turn in range(steps // 2):
        begun, cut = begun + len(step.start_lanes), cut + step.truncated.sum()
        for replay in (frames, whole):
            replay.append(step)
        if turn % 7 == 6:
            assert_same_batches(rng, frames, whole)
        stream.send(rng.integers(stream.facts.num_actions, size=2))
        step = stream.recv()
    stream.close()
    assert begun > 4  # of games and of lives
    assert cut if game == "pong" else begun > cut + 2
    assert frames.ring.added.min() > 2 * 97  # around the ring
