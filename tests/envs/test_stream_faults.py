"""EnvStream with faulty environments: one clear error and no wrong transition."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastdqn.envs import EnvError, EnvStream, NonFiniteError
from helpers.oracles import TERMINATED, TRUNCATED, ScriptedEnv

NEXT_STEP, SAME_STEP, DISABLED = (
    AutoresetMode.NEXT_STEP,
    AutoresetMode.SAME_STEP,
    AutoresetMode.DISABLED,
)


class PoisonedEnv(ScriptedEnv):
    """Environment 1 returns one bad number at the third step; episodes last 4."""

    def __init__(self, lane, what, value, length=4):
        super().__init__(lane, [(length, TRUNCATED)])
        self.what, self.value = what, value

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.lane == 1 and self.t == 3:
            if self.what == "reward":
                reward = self.value
            else:
                obs[2] = self.value
        return obs, reward, terminated, truncated, info


class PoisonedResetEnv(ScriptedEnv):
    """The second episode begins with a bad number."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        if self.episode == 1:
            obs[0] = np.nan
        return obs, info


def poisoned(mode, what, value, length=4) -> EnvStream:
    makers = [lambda lane=lane: PoisonedEnv(lane, what, value, length) for lane in range(3)]
    return EnvStream(SyncVectorEnv(makers, autoreset_mode=mode))


def run(stream, calls):
    stream.start(seed=0)
    for _ in range(calls):
        stream.send(np.zeros(stream.num_lanes, np.int64))
        stream.recv()


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_non_finite_number_names_environment_and_step(mode, what, value):
    run(poisoned(mode, what, value), 2)
    with pytest.raises(NonFiniteError, match=rf"^env 1, step 3: {what} is {value}$"):
        run(poisoned(mode, what, value), 3)


@pytest.mark.filterwarnings("error")
def test_a_reward_that_the_replay_cannot_store_is_not_finite():
    """Rewards are summed in float64 and stored as float32, whose largest number is 3.4e38."""
    with pytest.raises(
        NonFiniteError, match=r"^env 1, step 3: reward is 1e\+39, which exceeds the larg"
    ):
        run(poisoned(NEXT_STEP, "reward", 1e39), 3)


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_a_non_finite_last_observation_is_detected_after_the_reset(mode):
    with pytest.raises(NonFiniteError, match=r"^env 1, step 3: last observation is nan$"):
        run(poisoned(mode, "observation", np.nan, length=3), 3)


def test_a_non_finite_number_does_not_count_as_a_changed_observation():
    """Environment 1 observes it in the call in which 0 and 2 end and are reset."""
    makers = [
        lambda: ScriptedEnv(0, [(3, TRUNCATED)]),
        lambda: PoisonedEnv(1, "observation", np.nan, length=9),
    ]
    stream = EnvStream(SyncVectorEnv(makers, autoreset_mode=DISABLED))
    with pytest.raises(NonFiniteError, match=r"^env 1, step 3: observation is nan$"):
        run(stream, 3)


def test_next_step_detects_it_at_the_episode_end():
    with pytest.raises(NonFiniteError, match=r"^env 1, step 3: observation is nan$"):
        run(poisoned(NEXT_STEP, "observation", np.nan, length=3), 3)


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED])
def test_a_non_finite_first_observation_is_rejected(mode):
    makers = [lambda: PoisonedResetEnv(0, [(2, TERMINATED)])]
    stream = EnvStream(SyncVectorEnv(makers, autoreset_mode=mode))
    with pytest.raises(NonFiniteError, match=r"^env 0, step 2: observation is nan$"):
        run(stream, 3)


def test_a_stream_can_start_again_after_such_an_error():
    stream = poisoned(NEXT_STEP, "reward", np.nan)
    with pytest.raises(NonFiniteError):
        run(stream, 3)
    run(stream, 2)


def test_an_observation_outside_its_space_is_rejected():
    class NarrowEnvs(SyncVectorEnv):
        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed, options=options)
            return obs[:, :2], info

    stream = EnvStream(NarrowEnvs([lambda: ScriptedEnv(0, [(2, TERMINATED)])] * 2))
    with pytest.raises(EnvError, match=r"shape \(2, 2\), but their space has \(2, 3\)"):
        stream.start(seed=0)


class MislabelledEnvs(SyncVectorEnv):
    """Declares one autoreset mode and behaves as another."""

    def __init__(self, makers, declares, behaves):
        super().__init__(makers, autoreset_mode=declares)
        self.declares, self.behaves = declares, behaves

    def step(self, actions):
        self.autoreset_mode = self.behaves
        try:
            return super().step(actions)
        finally:
            self.autoreset_mode = self.declares


@pytest.mark.parametrize(("declares", "behaves"), [(NEXT_STEP, SAME_STEP), (SAME_STEP, NEXT_STEP)])
@pytest.mark.parametrize("length", [1, 3])
def test_a_wrong_declared_mode_is_an_error_at_the_first_end(declares, behaves, length):
    makers = [
        lambda: ScriptedEnv(0, [(9, TERMINATED)]),
        lambda: ScriptedEnv(1, [(length, TERMINATED)]),
    ]
    stream = EnvStream(MislabelledEnvs(makers, declares, behaves))
    run(stream, length - 1)
    stream.send(np.zeros(2, np.int64))
    with pytest.raises(RuntimeError, match=rf"^env 1: .*AutoresetMode\.{declares.name}.*; set its"):
        stream.recv()


def test_an_environment_that_never_resets_is_rejected():
    class EndlessEnv(ScriptedEnv):
        def step(self, action):
            self.over = False
            obs, _, _, _, info = super().step(action)
            return obs, 0.0, self.t >= 2, False, info

    class NeverReset(SyncVectorEnv):
        def step(self, actions):
            self._autoreset_envs[:] = False
            return super().step(actions)

    stream = EnvStream(NeverReset([lambda: EndlessEnv(0, [(9, TERMINATED)])]))
    run(stream, 2)
    stream.send(np.zeros(1, np.int64))
    with pytest.raises(RuntimeError, match=r"env 0: .*NEXT_STEP"):
        stream.recv()


def test_the_mode_is_read_from_the_instance_not_from_metadata_of_the_class():
    envs = SyncVectorEnv([lambda: ScriptedEnv(0, [(2, TERMINATED)])], autoreset_mode=SAME_STEP)
    envs.metadata["autoreset_mode"] = NEXT_STEP
    assert EnvStream(envs).autoreset_mode == SAME_STEP
