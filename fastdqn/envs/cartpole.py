"""FastCartPole: Gymnasium's CartPoleVectorEnv with a compiled step and identical results."""

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import VectorWrapper

from fastdqn.kernels.jit import ieee_kernel


class FastCartPole(VectorWrapper):
    """Steps a CartPoleVectorEnv without allocating; the state stays in the wrapped object.

    Sine and cosine are NumPy's, since compiled ones differ in the last bit. The rest keeps the
    environment's own order of operations. Each step() overwrites the arrays of the previous one.

    Raises:
        ValueError: The time limit is not a number of at least 1.
    """

    def __init__(self, envs: CartPoleVectorEnv):
        super().__init__(envs)
        n, limit = envs.num_envs, envs.max_episode_steps
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise ValueError(f"max_episode_steps is {limit!r}, must be a number of at least 1")
        self._bare = envs
        self._constants = (
            envs.gravity, envs.masspole, envs.total_mass, envs.length, envs.polemass_length,
            envs.force_mag, envs.tau, envs.x_threshold, envs.theta_threshold_radians,
            float(limit), bool(envs._sutton_barto_reward),  # fixed types, so one compiled kernel
        )  # fmt: skip
        self._cos, self._sin = np.zeros((2, n))
        self._obs = np.zeros((n, 4), np.float32)
        self._reward = np.zeros(n, np.float32)
        self._terminated, self._truncated = np.zeros((2, n), np.bool_)
        self._no_start = np.zeros((4, 0))
        flags, state = np.zeros(0, np.bool_), np.zeros((4, 0))
        _step(
            np.zeros(0, np.int64), state, np.zeros(0, np.int32), flags, self._no_start,
            state[0], state[0], self._obs[:0], self._reward[:0], flags, flags, self._constants,
        )  # fmt: skip

    def step(self, actions):
        """Steps as CartPoleVectorEnv.step(); raises ValueError if an action is not 0 or 1."""
        bare = self._bare
        if bare.state is None:
            raise ValueError("step() was called before reset()")
        if np.shape(actions) != bare.steps.shape:
            raise ValueError(
                f"actions have shape {np.shape(actions)}: expected one for each sub-environment"
            )
        np.cos(bare.state[2], out=self._cos)
        np.sin(bare.state[2], out=self._sin)
        starts, ended = self._no_start, np.count_nonzero(bare.prev_done)
        if ended:
            starts = bare.np_random.uniform(low=bare.low, high=bare.high, size=(4, ended))
        stray = _step(
            np.ascontiguousarray(actions, np.int64), bare.state, bare.steps, bare.prev_done, starts,
            self._cos, self._sin, self._obs, self._reward, self._terminated, self._truncated,
            self._constants,
        )  # fmt: skip
        if stray >= 0:
            raise ValueError(f"env {stray}: action {actions[stray]} is neither 0 nor 1")
        return self._obs, self._reward, self._terminated, self._truncated, {}


@ieee_kernel
def _step(
    action, state, steps, ended, starts, cos, sin, obs, reward, terminated, truncated, constants
):
    """Steps by explicit Euler integration (Barto, Sutton and Anderson 1983).

    Returns the first row with an invalid action, in which case nothing was stepped, or -1.
    """
    (
        gravity, masspole, total_mass, length, polemass_length, force_mag, tau, far, steep, limit,
        sutton_barto,
    ) = constants  # fmt: skip
    for i in range(len(action)):
        if action[i] != 0 and action[i] != 1:
            return i
    for i in range(len(action)):
        x, x_dot, theta, theta_dot = state[0, i], state[1, i], state[2, i], state[3, i]
        force = force_mag if action[i] == 1 else -force_mag
        temp = (force + polemass_length * (theta_dot * theta_dot) * sin[i]) / total_mass
        theta_acc = (gravity * sin[i] - cos[i] * temp) / (
            length * (4.0 / 3.0 - masspole * (cos[i] * cos[i]) / total_mass)
        )
        x_acc = temp - polemass_length * theta_acc * cos[i] / total_mass
        state[0, i], state[1, i] = x + tau * x_dot, x_dot + tau * x_acc
        state[2, i], state[3, i] = theta + tau * theta_dot, theta_dot + tau * theta_acc
    begun = 0
    for i in range(len(action)):
        if ended[i]:  # this call resets, and the action is ignored
            for k in range(4):
                state[k, i] = starts[k, begun]
            begun += 1
            steps[i], reward[i], terminated[i], truncated[i] = 0, 0.0, False, False
        else:
            steps[i] += 1
            terminated[i] = abs(state[0, i]) > far or abs(state[2, i]) > steep
            truncated[i] = steps[i] >= limit
            reward[i] = (-1.0 if terminated[i] else -0.0) if sutton_barto else 1.0
        ended[i] = terminated[i] or truncated[i]
        for k in range(4):
            obs[i, k] = state[k, i]
    return -1
