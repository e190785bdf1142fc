"""A fuzz of environments: a run equals a plain loop over the environment, or ends with one line.

FASTDQN_FUZZ_ENVS=1000 sets the number of cases.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import DictInfoToList
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastdqn
from fastdqn.envs import ObsReader
from fastdqn.envs.observations import batch_of_one
from fastdqn.seeding import TRAIN, env_seed
from helpers.loop import small

CASES = int(os.environ.get("FASTDQN_FUZZ_ENVS", "25"))
NUM_ENVS, STEPS, SEED = 3, 90, 4
SPACES = {
    "float32": spaces.Box(-9.0, 9.0, (3,), np.float32),
    "float64": spaces.Box(-9.0, 9.0, (2, 2), np.float64),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "scalar": spaces.Box(-9.0, 9.0, (), np.float32),
    "bits": spaces.MultiBinary(3),
    "number": spaces.Discrete(5, start=2),
    "numbers": spaces.MultiDiscrete([3, 2]),
    "dict": spaces.Dict(a=spaces.Box(0.0, 1.0, (2,), np.float32), b=spaces.Discrete(3)),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 9, (1,), np.int64))),
}
NUMBERS: dict[str, Callable[[float], Any]] = {
    "float": float, "float32": np.float32, "float64": np.float64, "int": round,
    "int64": lambda x: np.int64(round(x)), "array": lambda x: np.array([x]),
    "zero-d": np.array, "bool": lambda x: x > 0.5,
    "none": lambda x: None, "text": str, "two": lambda x: np.array([x, x]),
}  # fmt: skip
INFOS: dict[str, Callable[[int], Any]] = {
    "empty": lambda t: {}, "growing": lambda t: {"path": np.zeros(t), "n": t},
    "mixed": lambda t: {"winner": [1, None, "nobody", 1 << 90][t % 4]},
    "nested": lambda t: {"deep": {"er": [t, {"est": None}]}, "_deep": t},
    "objects": lambda t: {"call": lambda: t},
    "none": lambda t: None, "list": lambda t: [t],
}  # fmt: skip
MASKS: dict[str, Callable[[np.ndarray], Any]] = {
    "bool": lambda m: m, "list": lambda m: m.tolist(), "int8": lambda m: m.astype(np.int8),
    "float": lambda m: m.astype(np.float64), "additive": lambda m: np.where(m, 0.0, -np.inf),
    "short": lambda m: m[:-1],
}  # fmt: skip
ERRORS: list[type[BaseException]] = [RuntimeError, OSError, SystemExit, GeneratorExit, ValueError]
PLACES = ["constructor", "reset", "step", "close", "render"]
BACK_ENDS = ["sync", "workers", "async", "given", "given async", "listed"]


@dataclass(frozen=True)
class Case:
    """What an environment does, and how a run gets it."""

    space: str = "float32"
    actions: int = 3
    start: int = 0
    lengths: tuple[int, ...] = (3, 1, 5)
    truncates: bool = False
    both: bool = False
    reward: str = "float"
    flag: str = "float"
    info: str = "empty"
    mask: str | None = None
    mask_at: str = "always"
    aliases: bool = False
    limit: int | None = None
    fails: tuple[str, int] | None = None
    failing_at: int = 4
    objects: str = "new"
    back_end: str = "sync"
    mode: AutoresetMode = field(default=AutoresetMode.NEXT_STEP)


def mostly(usual: list, odd: Any) -> st.SearchStrategy:
    """Draws a usual value nine times of ten; several oddities at once are hard to interpret."""
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(list(odd) if n == 9 else usual))


CASE = st.builds(
    Case,
    space=st.sampled_from(sorted(SPACES)), actions=st.integers(2, 4), start=st.integers(-2, 3),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    truncates=st.booleans(), both=st.booleans(),
    reward=mostly(["float"], NUMBERS), flag=mostly(["bool", "int64", "array"], NUMBERS),
    info=mostly(["empty", "growing", "mixed", "nested", "objects"], INFOS),
    mask=mostly([None, "bool", "list"], MASKS),
    mask_at=mostly(["always", "but the end", "None at the end"], ["reset", "step"]),
    aliases=st.booleans(), limit=st.sampled_from([None, None, 2, 4]),
    fails=mostly([None], [(place, i) for place in PLACES for i in range(len(ERRORS))]),
    failing_at=st.integers(1, 30), objects=mostly(["new"], ["one", "pool"]),
    back_end=st.sampled_from(BACK_ENDS), mode=st.sampled_from(list(AutoresetMode)),
)  # fmt: skip


class Drawn(gymnasium.Env):
    """An environment with the behavior of a case and random observations and rewards."""

    def __init__(self, case: Case):
        self._fail("constructor", case)
        self.case, self.t, self.calls, self.episode = case, 0, 0, 0
        self.observation_space = SPACES[case.space]
        self.action_space = spaces.Discrete(case.actions, start=case.start)
        self.kept: Any = None

    def _fail(self, place: str, case: Case, when: bool = True) -> None:
        if case.fails is not None and case.fails[0] == place and when:
            raise ERRORS[case.fails[1]]("as\ndrawn")

    def _observe(self) -> Any:
        space = self.observation_space
        space.seed(int(self.np_random.integers(1 << 30)))
        obs = space.sample()
        if not self.case.aliases or not isinstance(obs, np.ndarray):
            return obs
        if self.kept is None:
            self.kept = obs
        np.copyto(self.kept, obs)
        return self.kept

    def _tell(self, at: str) -> Any:
        info, case = INFOS[self.case.info](self.calls), self.case
        mask = np.arange(case.actions) == self.calls % case.actions
        gives = {"always": True, "reset": at == "reset", "step": at != "reset"}
        if case.mask is None or not isinstance(info, dict) or not gives.get(case.mask_at, True):
            return info
        if at == "end" and case.mask_at == "but the end":
            return info
        last = at == "end" and case.mask_at == "None at the end"
        return info | {"action_mask": None if last else MASKS[case.mask](mask)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.calls += 1
        self._fail("reset", self.case, self.calls > self.case.failing_at)
        self.t, self.episode = 0, self.episode + 1
        return self._observe(), self._tell("reset")

    def step(self, action) -> Any:
        case = self.case
        assert self.action_space.contains(action)
        self.t, self.calls = self.t + 1, self.calls + 1
        self._fail("step", case, self.calls > case.failing_at)
        over = self.t >= case.lengths[self.episode % len(case.lengths)]
        flag = NUMBERS[case.flag]
        truncated = over and (case.truncates or case.both)
        terminated = over and (not case.truncates or case.both)
        obs, reward = self._observe(), NUMBERS[case.reward](float(self.np_random.integers(9)) / 4)
        info = self._tell("end" if over else "step")
        return obs, reward, flag(float(terminated)), flag(float(truncated)), info

    def render(self):
        self._fail("render", self.case)

    def close(self):
        self._fail("close", self.case)


def environment(case: Case) -> gymnasium.Env:
    env = Drawn(case)
    return env if case.limit is None else TimeLimit(env, case.limit)


def makers(case: Case) -> Callable[[], gymnasium.Env]:
    """A function that makes environments, or returns the same one, or two alternately."""
    if case.objects == "new":
        return lambda: environment(case)
    pool: list[gymnasium.Env] = []

    def next_one():
        if len(pool) < (1 if case.objects == "one" else 2):
            pool.append(environment(case))
        pool.append(pool.pop(0))
        return pool[-1]

    return next_one


def train(case: Case, folder: str, on_step: Callable) -> Any:
    in_processes = case.back_end in ("workers", "async")
    config = small(
        Path(folder), seed=SEED, num_envs=NUM_ENVS, total_timesteps=STEPS, learning_starts=30,
        eval_episodes=1, vectorization=case.back_end if in_processes else "auto",
        workers=2 if case.back_end == "workers" else None, checkpoint_seconds=None,
    )  # fmt: skip
    make = makers(case)
    if in_processes or case.back_end == "sync":
        return fastdqn.train(config, make, on_step=on_step)
    kind: Any = AsyncVectorEnv if case.back_end == "given async" else SyncVectorEnv
    try:
        envs = kind([make] * NUM_ENVS, autoreset_mode=case.mode)
    except BaseException as error:  # Gymnasium's, which cannot make what fails when it is made
        assert case.fails is not None
        raise fastdqn.ConfigError(["the vector environment cannot be made"]) from error
    try:
        given_envs = DictInfoToList(envs) if case.back_end == "listed" else envs
        return fastdqn.train(config.replace(vectorization="auto"), given_envs, on_step=on_step)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                envs.close()
            except BaseException:  # the test's own to close, and drawn to fail
                for process in getattr(envs, "processes", []):
                    process.kill()
                    process.join()
                envs.closed = True


def outcome(case: Case) -> tuple[str, list[tuple], list[str]]:
    """Returns what a run came to.

    (the line that ended the run, or ''; transitions by lane; warnings)
    """
    told: list[tuple] = []

    def note(progress, step):
        rows = zip(step.lanes, step.action, step.reward, step.terminated, step.truncated,
                   step.next_obs.copy(), strict=True)  # fmt: skip
        told.extend((int(lane), *rest) for lane, *rest in rows)
        ends = zip(step.ended_lanes, step.returns, step.lengths, strict=True)
        told.extend(("end", int(lane), float(r), int(n)) for lane, r, n in ends)

    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        try:
            train(case, folder, note)
        except (fastdqn.ConfigError, fastdqn.EnvError, fastdqn.NonFiniteError) as error:
            lines = getattr(error, "lines", [str(error)])
            assert all(line and "\n" not in line for line in lines)
            return "; ".join(lines), told, [str(each.message) for each in warned]
        return "", told, [str(each.message) for each in warned]


def replayed(case: Case, told: list[tuple]) -> list[tuple]:
    """The same transitions from a plain loop over new environments with the same actions."""
    plain: list[tuple] = []
    reader = ObsReader(SPACES[case.space])
    envs, totals = {}, {}
    for row in told:
        if row[0] == "end":
            plain.append(("end", row[1], *totals.pop(row[1])))
            continue
        lane, action = row[0], int(row[1])
        if lane not in envs:
            # A plain loop keeps what it was given: its arrays are not reused.
            quiet = Case(**{**vars(case), "aliases": False, "fails": None})
            envs[lane] = environment(quiet)
            envs[lane].reset(seed=env_seed(SEED, TRAIN) + lane)
        obs, reward, terminated, truncated, _ = envs[lane].step(action + case.start)
        reward, over = float(np.asarray(reward).item()), bool(terminated or truncated)
        total, length = totals.get(lane, (0.0, 0))
        totals[lane] = total + reward, length + 1
        next_obs = reader(batch_of_one(obs))[0]
        plain.append((lane, action, reward, bool(terminated), bool(truncated), next_obs))
        if over:
            envs[lane].reset()
    return plain


def check(case: Case) -> str:
    """Play a case and hold it against a plain loop; returns the line that it ended with, or ''."""
    line, told, warned = outcome(case)
    for row, expected in zip(told, replayed(case, told), strict=True):
        if row[0] == "end":
            assert row == expected
            continue
        assert row[:5] == expected[:5]
        if not (warned and (row[3] or row[4])):  # of a last observation it was warned
            np.testing.assert_allclose(row[5], expected[5], rtol=1e-6)
    if not line:
        assert sum(row[0] != "end" for row in told) >= STEPS
    return line


@pytest.mark.slow
@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    derandomize=CASES <= 25,
)
@given(CASE)
def test_a_run_equals_a_plain_loop_or_ends_in_a_line(case):
    line = check(case)
    if case.fails is not None and case.fails[0] == "constructor":
        assert line
    if case.mask in ("additive", "short") or (case.mask and case.mask_at in ("reset", "step")):
        bandit = max(case.lengths) == 1 or case.limit == 1
        assert line or bandit or INFOS[case.info](0) in (None, [0])


@pytest.mark.slow
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_the_fuzz_trains_a_well_behaved_environment(back_end):
    for mode in AutoresetMode:
        assert check(Case(back_end=back_end, mode=mode, flag="bool")) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reward": "two"}, "reward is"), ({"flag": "text"}, "terminated is"),
        ({"info": "list"}, "info is list"), ({"mask": "additive"}, "return mask == 0"),
        ({"fails": ("step", 3)}, "GeneratorExit: as drawn"),
        ({"fails": ("constructor", 2)}, "SystemExit: as drawn"), ({"objects": "one"}, "same Drawn"),
    ],
)  # fmt: skip
def test_the_fuzz_detects_error_messages(change, says):
    assert says in check(Case(**{"flag": "bool", **change}))
