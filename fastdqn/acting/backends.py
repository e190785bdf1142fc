"""Back ends: how calls reach a vector environment, and which lanes answer first."""

import contextlib
from collections import deque
from collections.abc import Iterable
from multiprocessing import connection
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from fastdqn.acting.failures import LaneFailure, how_it_ended, one_line

# Seconds that a lane under way may still take when all are closed. Ours, untuned.
_PATIENCE = 5.0


class Arrival(NamedTuple):
    """What R lanes answered: each field has R entries, in the order of lanes.

    lanes [R] int64, none twice · obs  a batch of the raw space · reward, terminated, truncated [R]
    info  of Gymnasium's vector kind; its arrays may be longer than R
    A lane's first answer after a reset has reward 0 and neither end.
    """

    lanes: np.ndarray
    obs: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, Any]


class Backend(Protocol):
    """num_ready  R: the lanes of each arrival, and so of each send."""

    num_ready: int

    def reset(self, seed: int | None) -> Arrival:
        """Reset every lane, and wait for the first R."""
        ...

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        """Hand lanes [R] that have answered their actions [R], in the environment's count."""
        ...

    def recv(self) -> Arrival: ...

    def restart(self, lanes: np.ndarray) -> Arrival:
        """Reset these lanes alone (AutoresetMode.DISABLED); all N lanes are in the arrival."""
        ...

    def settle(self) -> None:
        """Take in what is under way and forget it, so that others may use the environments."""
        ...

    def close(self) -> None: ...


def connect(envs: VectorEnv, env_batch_size: int | None = None) -> Backend:
    """The back end for a vector environment.

    env_batch_size  lanes to wait for; None: all, or what envs were made with
    Raises ValueError where envs cannot answer for some lanes first.
    """
    if isinstance(envs, AsyncVectorEnv):
        return Workers(envs, env_batch_size or envs.num_envs)
    backend = Native(envs) if hasattr(type(envs), "recv") else Calls(envs)
    if env_batch_size not in (None, backend.num_ready):
        raise ValueError(
            f"env_batch_size is {env_batch_size}, but these environments answer for "
            f"{backend.num_ready} at a time: --vectorization async and envpool take any number"
        )
    return backend


def close_quietly(envs: VectorEnv | gymnasium.Env) -> None:
    """Close what anyone made: one that cannot be closed must not cost the run its result."""
    with contextlib.suppress(Exception):
        envs.close()


def answers_for(envs: VectorEnv) -> int:
    """Lanes that environments of anyone's making answer for at a time."""
    return connect(envs).num_ready


class Calls:
    """Any VectorEnv by its reset() and step(): all lanes answer together."""

    def __init__(self, envs: VectorEnv):
        self._envs = envs
        self.num_ready = envs.num_envs
        self._lanes = np.arange(envs.num_envs)
        self._action = np.zeros(0)

    def reset(self, seed: int | None) -> Arrival:
        return _first(self._lanes, *self._envs.reset(seed=seed))

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        self._action = action

    def recv(self) -> Arrival:
        return Arrival(self._lanes, *self._envs.step(self._action))

    def restart(self, lanes: np.ndarray) -> Arrival:
        # Gymnasium pops the mask from the dict and may keep it: both are made anew.
        mask = np.zeros(self.num_ready, np.bool_)
        mask[lanes] = True
        return _first(self._lanes, *self._envs.reset(options={"reset_mask": mask}))

    def settle(self) -> None:
        """Nothing is ever under way between two calls."""

    def close(self) -> None:
        close_quietly(self._envs)


# Lanes whose answers are still to come, of environments that outlive a back end over them.
_UNDER_WAY: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class Native:
    """Environments in threads of C++, with send() and recv() of their own: EnvPool and ale-py."""

    def __init__(self, envs: Any):
        self._envs = envs
        config = getattr(envs, "config", {})
        self.num_ready = int(getattr(envs, "batch_size", config.get("batch_size", envs.num_envs)))
        self._is_envpool = hasattr(envs, "async_reset")

    def reset(self, seed: int | None) -> Arrival:
        if under_way := _UNDER_WAY.get(self._envs):
            raise ValueError(
                f"{under_way} lanes are still under way: environments that answer for some lanes "
                "first can be started only once; make new ones"
            )
        _UNDER_WAY[self._envs] = self._envs.num_envs
        if not self._is_envpool:
            obs, info = self._envs.reset(seed=seed)
        else:  # seeded when it was made
            self._envs.async_reset()
            obs, info = self._envs.recv(True, True)
        _UNDER_WAY[self._envs] -= self.num_ready
        return _first(_lane_ids(info), obs, info)

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        _UNDER_WAY[self._envs] += len(lanes)
        if self._is_envpool:
            self._envs.send(action, lanes)
        else:
            self._envs.send(action)  # for the lanes of the last recv, which these are

    def recv(self) -> Arrival:
        obs, reward, terminated, truncated, info = self._envs.recv()
        _UNDER_WAY[self._envs] -= self.num_ready
        return Arrival(_lane_ids(info), obs, reward, terminated, truncated, info)

    def restart(self, lanes: np.ndarray) -> Arrival:
        raise ValueError("environments in threads of C++ reset themselves: no mode DISABLED")

    def settle(self) -> None:
        """Lanes under way answer only together with others: they are left so."""

    def close(self) -> None:
        close_quietly(self._envs)


class Workers:
    """The processes of an AsyncVectorEnv, spoken to directly.

    step_wait() waits for all lanes, and tells of a dead one as a bare EOFError. A message here is
    what Gymnasium's own worker takes and gives; observations lie in the shared memory.
    """

    def __init__(self, envs: AsyncVectorEnv, num_ready: int):
        if num_ready < envs.num_envs and not envs.shared_memory:
            raise ValueError("waiting for some lanes first needs AsyncVectorEnv's shared_memory")
        self._envs, self.num_ready = envs, num_ready
        self._failed = False
        self._errors: dict[int, LaneFailure] = {}
        self._in_flight: set[int] = set()
        self._arrived: deque[int] = deque()  # in flight, and their messages are there

    def reset(self, seed: int | None) -> Arrival:
        self.settle()
        for lane in range(self._envs.num_envs):
            lane_seed = None if seed is None else seed + lane
            self._tell(lane, ("reset", {"seed": lane_seed, "options": None}))
        return self.recv()

    def send(self, lanes: np.ndarray, action: np.ndarray) -> None:
        for lane, taken in zip(lanes.tolist(), action, strict=True):
            self._tell(lane, ("step", taken))

    def recv(self) -> Arrival:
        lanes = np.array(self._answered(), np.int64)
        return self._collect(lanes, [self._message(lane) for lane in lanes.tolist()])

    def restart(self, lanes: np.ndarray) -> Arrival:
        for lane in lanes.tolist():
            self._tell(lane, ("reset", {"seed": None, "options": None}))
        messages: list[Any] = [(None, {})] * self._envs.num_envs
        for lane in lanes.tolist():
            messages[lane] = self._message(lane)
        return self._collect(np.arange(self._envs.num_envs), messages)

    def settle(self) -> None:
        for lane in sorted(self._in_flight):
            self._message(lane)
        self._arrived.clear()

    def close(self) -> None:
        """End the processes: politely where all of them live and answer soon, else at once."""
        if self._envs.closed:
            return
        with contextlib.suppress(EOFError, OSError, LaneFailure):  # one has just died
            if not self._failed and self._all_answer():
                self._envs.close()
                return
        for process in self._envs.processes:
            process.kill()  # they are deaf to less
        for process in self._envs.processes:
            process.join(_PATIENCE)
        self._envs.close(terminate=True)

    def _all_answer(self) -> bool:
        """Take in the lanes under way, each a while; False where one is dead or hangs."""
        if not all(process.is_alive() for process in self._envs.processes):
            return False
        for lane in sorted(self._in_flight):
            if not self._envs.parent_pipes[lane].poll(_PATIENCE):
                return False
            self._message(lane)
        return True

    def _answered(self) -> Iterable[int]:
        """The next num_ready lanes: in their order where all are waited for, else as they come."""
        if self.num_ready == self._envs.num_envs:
            return range(self.num_ready)
        pipes = self._envs.parent_pipes
        while len(self._arrived) < self.num_ready:
            waiting = self._in_flight.difference(self._arrived)
            waited_for: dict[Any, int] = {pipes[lane]: lane for lane in waiting}
            # Sorted, or the order of a set would decide between lanes that are there together.
            self._arrived.extend(sorted(waited_for[pipe] for pipe in connection.wait(waited_for)))
        return [self._arrived.popleft() for _ in range(self.num_ready)]

    def _collect(self, lanes: np.ndarray, messages: list[tuple]) -> Arrival:
        envs = self._envs
        reward = np.zeros(len(lanes), np.float64)
        terminated, truncated = np.zeros((2, len(lanes)), np.bool_)
        info: dict[str, Any] = {}
        for i, message in enumerate(messages):
            if len(message) == 5:
                reward[i], terminated[i], truncated[i] = message[1:4]
            info = envs._add_info(info, message[-1], i)
        if not envs.shared_memory:
            envs.observations = _stacked(envs, [message[0] for message in messages])
        obs = envs.observations
        if len(lanes) < envs.num_envs:
            obs = _take(envs.single_observation_space, obs, lanes)
        return Arrival(lanes, obs, reward, terminated, truncated, info)

    def _tell(self, lane: int, message: tuple) -> None:
        try:
            self._envs.parent_pipes[lane].send(message)
        except OSError:
            raise self._death(lane) from None
        self._in_flight.add(lane)

    def _message(self, lane: int) -> tuple:
        """What a lane answered. Raises LaneFailure where it raised, or is no more."""
        try:
            answer, is_well = self._envs.parent_pipes[lane].recv()
        except (EOFError, OSError):
            raise self._death(lane) from None
        self._in_flight.discard(lane)
        if is_well:
            return answer
        self._failed = True
        raise self._error_of(lane)

    def _error_of(self, lane: int) -> LaneFailure:
        """What a lane raised; several may have, and their errors come in an order of their own."""
        while lane not in self._errors:
            try:
                at, _, error, trace = self._envs.error_queue.get(timeout=_PATIENCE)
            except Exception as lost:  # queue.Empty; or what an exception of anyone's does here
                return LaneFailure(lane, f"it raised an error that cannot be sent ({lost!r})")
            self._errors[at] = LaneFailure(at, one_line(error), trace)
        return self._errors[lane]

    def _death(self, lane: int) -> LaneFailure:
        self._failed = True
        process = self._envs.processes[lane]
        process.join(_PATIENCE)  # its pipe is closed: it is ending, or hangs on its way out
        return LaneFailure(lane, how_it_ended(process.exitcode))


def _first(lanes: np.ndarray, obs: Any, info: dict) -> Arrival:
    never = np.zeros(len(lanes), np.bool_)
    return Arrival(lanes, obs, np.zeros(len(lanes)), never, never, info)


def _lane_ids(info: dict) -> np.ndarray:
    return np.asarray(info["env_id"], np.int64)


def _stacked(envs: AsyncVectorEnv, observations: list) -> Any:
    """Without shared memory; a lane that was not restarted (None) keeps what it had."""
    from gymnasium.vector.utils import concatenate, iterate

    kept = iterate(envs.observation_space, envs.observations)
    fresh = [old if new is None else new for old, new in zip(kept, observations, strict=True)]
    return concatenate(envs.single_observation_space, fresh, envs.observations)


def _take(space: spaces.Space, obs: Any, lanes: np.ndarray) -> Any:
    """The rows of some lanes from a batch of observations, however nested."""
    if isinstance(space, spaces.Dict):
        return {key: _take(inner, obs[key], lanes) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_take(space.spaces[i], part, lanes) for i, part in enumerate(obs))
    return np.asarray(obs)[lanes]
