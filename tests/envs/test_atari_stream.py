"""Atari streams equal ALE byte for byte, including lost lives and time limits."""

import itertools

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from fastdqn.config import atari_protocols
from fastdqn.envs import EnvStream
from fastdqn.envs.life_loss import may_lose_lives
from fastdqn.replay import Replay, Ring, RowStore, UniformSampler

pytest.importorskip("ale_py")
from ale_py import ALEInterface, LoggerMode
from ale_py.vector_env import AtariVectorEnv

from helpers.oracle_atari import SCREEN, play

ALEInterface.setLoggerMode(LoggerMode.Error)
SEED = 7
GAMES = [("breakout", "dqn2015"), ("pong", "machado2018"), ("space_invaders", "dqn2015")]
MODES = ["NextStep", "SameStep"]


def settings_of(protocol: str, limit: int) -> dict:
    """At the screen's own size, without random no-ops: what can be played by hand."""
    height, width = SCREEN
    own = {"img_height": height, "img_width": width, "noop_max": 0}
    return atari_protocols.settings(protocol, {**own, "max_num_frames_per_episode": limit})


def make(rom: str, settings: dict, mode: str = "NextStep", lanes: int = 1, batch=0) -> VectorEnv:
    told = {**settings, "reward_clipping": False}
    return AtariVectorEnv(rom, lanes, batch_size=batch, autoreset_mode=mode, **told)


def live(stream: EnvStream, actions: np.ndarray, replay: Replay | None = None) -> list[list[tuple]]:
    """Plays actions [N, L] in ALE directly and returns the games as play() does."""
    lived: list[list[tuple]] = [[] for _ in range(stream.num_lanes)]
    made = np.zeros(stream.num_lanes, np.int64)
    step = stream.start(SEED)
    while made.min() < actions.shape[1]:
        if replay is not None:
            replay.append(step)
        for i, lane in enumerate(step.lanes):
            made[lane] += 1
            lived[lane].append(
                (step.action[i], step.reward[i], step.terminated[i], step.truncated[i],
                 step.next_obs[i].copy())
            )  # fmt: skip
        for lane, *game in zip(step.ended_lanes, step.returns, step.lengths, strict=True):
            lived[lane].append(("game", *game))
        for lane, obs in zip(step.start_lanes, step.start_obs, strict=True):
            lived[lane].append(("start", obs.copy()))
        next_up = np.minimum(made[stream.lanes], actions.shape[1] - 1)
        stream.send(actions[stream.lanes, next_up])
        step = stream.recv()
    return lived


def assert_same_life(ours: list[tuple], theirs: list[tuple]) -> None:
    """In order. The end of a game is reported at the following reset, so games are kept apart."""
    mine, other = ([told for told in life if told[0] != "game"] for life in (ours, theirs))
    for i, (one, two) in enumerate(zip(mine, other, strict=False)):
        assert one[:-1] == two[:-1], i
        assert np.array_equal(one[-1], two[-1]), i
    games, played = ([told for told in life if told[0] == "game"] for life in (ours, theirs))
    shorter = min(len(games), len(played))
    assert shorter >= len(played) - 1
    assert games[:shorter] == played[:shorter]


def assert_stream_is_ale(rom: str, protocol: str, mode: str, steps: int, limit: int) -> None:
    settings = settings_of(protocol, limit)
    stream = EnvStream(make(rom, settings, mode))
    actions = np.random.default_rng(1).integers(stream.facts.num_actions, size=(1, steps))
    (lived,) = live(stream, actions)
    stream.close()
    assert_same_life(lived, list(play(rom, SEED, actions[0], settings)))


@pytest.mark.slow
@pytest.mark.parametrize(("rom", "protocol"), GAMES)
@pytest.mark.parametrize("mode", MODES)
def test_a_stream_equals_ale(rom, protocol, mode):
    assert_stream_is_ale(rom, protocol, mode, steps=500, limit=1_201)


@pytest.mark.slow
@pytest.mark.parametrize(("rom", "protocol"), GAMES[:2])
def test_a_long_stream_equals_ale(rom, protocol):
    assert_stream_is_ale(rom, protocol, "NextStep", steps=1_600, limit=1_000)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 1])
def test_partial_batches_give_the_transitions_of_single_games(batch):
    settings = settings_of("dqn2015", 900)
    stream = EnvStream(make("breakout", settings, lanes=4, batch=batch))
    actions = np.random.default_rng(2).integers(4, size=(4, 250))
    lives = live(stream, actions)
    stream.close()
    for lane, lived in enumerate(lives):
        alone = list(play("breakout", SEED + lane, actions[lane], settings))
        enough = len([told for told in alone if told[0] != "game"])
        own = [told for told in lived if told[0] != "game"][:enough]
        games = [told for told in lived if told[0] == "game"]
        played = [told for told in alone if told[0] == "game"]
        assert_same_life(own + games[: len(played)], alone)


@pytest.mark.slow
def test_both_autoreset_modes_leave_equal_rows():
    settings = atari_protocols.settings("dqn2015", {"img_height": 20, "img_width": 16})
    actions = np.random.default_rng(3).integers(4, size=(2, 700))
    kept = []
    for mode in MODES:
        stream = EnvStream(make("breakout", settings, mode, lanes=2))
        ring, store = Ring(2, 900), RowStore(2, 900, (4, 20, 16), np.uint8)
        live(stream, actions, Replay(ring, store, UniformSampler(1), reward_bound=1.0))
        stream.close()
        kept.append((ring.added, ring.action, ring.reward, ring.status, store.words))
    rows = min(each[0].min() for each in kept) - 3  # one mode is a start ahead at the end
    for one, other in zip(*(each[1:4] for each in kept), strict=True):
        assert np.array_equal(one[:, :rows], other[:, :rows])
    one, other = (each[4].reshape(2, 900, -1)[:, :rows] for each in kept)
    assert np.array_equal(one, other)
    assert rows > 700


@pytest.mark.slow
def test_a_lost_life_without_lives_left_is_no_end_while_the_game_runs():
    """Decided by frame counters only, not by the number of lives."""
    settings = atari_protocols.settings("dqn2015", {"img_height": 20, "img_width": 16})
    stream = EnvStream(make("qbert", settings))
    (lived,) = live(stream, np.random.default_rng(4).integers(6, size=(1, 1_500)))
    stream.close()
    ends = sum(bool(told[2]) for told in lived if len(told) == 5)
    games = [told for told in lived if told[0] == "game"]
    assert 2 <= len(games) < ends
    starts = sum(told[0] == "start" for told in lived)
    assert starts == 1 + ends + len(games)
    rewards = np.array([told[1] for told in lived if len(told) == 5])
    edges = np.cumsum([0, *(length for _, _, length in games)])
    totals = [rewards[a:b].sum() for a, b in itertools.pairwise(edges)]
    assert [score for _, score, _ in games] == totals


def test_a_subclass_of_ale_pys_environment_may_lose_lives():
    class Own(AtariVectorEnv):
        pass

    envs = Own("pong", num_envs=1, life_loss_info=True)
    assert may_lose_lives(envs)
    envs.close()


@pytest.mark.slow
def test_an_action_out_of_range_is_rejected_and_hangs_no_environment():
    stream = EnvStream(make("pong", atari_protocols.settings("dqn2015", {}), lanes=2))
    stream.start(SEED)
    for action in (99, -1):
        with pytest.raises(ValueError, match="actions must be 2 integers from 0 to 5"):
            stream.send(np.array([0, action]))
    stream.send(np.array([0, 5]))
    assert len(stream.recv().lanes) == 2
    stream.close()
