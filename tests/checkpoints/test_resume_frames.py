"""resume() with frame storage: a resumed run equals one that was never stopped."""

from collections import deque

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation

import fastdqn
from helpers.loop import small
from helpers.resumed_runs import (
    asked_by_the_test,  # noqa: F401  # by its name alone
    assert_same_run,
    nothing,
    stopping_at,
)


class KeptStack(FrameStackObservation):
    """Environment whose frames are part of its state, so that it resumes exactly."""

    def __init__(self, env):
        super().__init__(env, 3)

    def get_state(self) -> dict:
        return {"frames": np.stack(list(self.obs_queue))}

    def set_state(self, state) -> None:
        self.obs_queue = deque(state["frames"], maxlen=self.stack_size)


def make_lane() -> gymnasium.Env:
    return KeptStack(gymnasium.make("CartPole-v1", max_episode_steps=30))


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [30, 437])
def test_a_resumed_run_of_frames_equals_an_uninterrupted_one(tmp_path, stop_at):
    config = small(
        tmp_path, total_timesteps=900, eval_frequency=250, n_steps=3, prioritized=True,
        buffer_size=300, checkpoint_frequency=100,
    )  # fmt: skip
    folders = [str(tmp_path / name) for name in ("whole", "part")]
    whole = fastdqn.train(config, make_lane, run_dir=folders[0], on_step=nothing)
    part = fastdqn.train(config, make_lane, run_dir=folders[1], on_step=stopping_at(stop_at))
    assert part.summary["exit_reason"] == "interrupted"
    fastdqn.resume(part.folder, make_lane, on_step=nothing)
    assert_same_run(whole.folder, part.folder)
    assert '"store": "frames"' in (part.folder / "config.json").read_text()


@pytest.mark.slow
def test_environments_that_are_reset_start_a_new_stack_in_the_replay(tmp_path):
    def forgetful() -> gymnasium.Env:
        return FrameStackObservation(gymnasium.make("CartPole-v1"), 3)

    config = small(tmp_path, total_timesteps=900)
    folder = str(tmp_path / "part")
    part = fastdqn.train(config, forgetful, run_dir=folder, on_step=stopping_at(300))
    resumed = fastdqn.resume(part.folder, forgetful)  # a stack that did not shift would be refused
    assert resumed.summary["total_steps"] >= 900
