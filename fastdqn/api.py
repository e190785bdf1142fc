"""The Python interface: train, load a policy, evaluate it."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from torch import nn

from fastdqn import build, checks
from fastdqn.acting import (
    EnvStream,
    NonFiniteError,
    find_spec,
    make_envs,
    nearest,
    read_spaces,
    registered,
)
from fastdqn.config import Config, ConfigError
from fastdqn.engine import local
from fastdqn.engine.evaluate import Evaluation
from fastdqn.engine.evaluate import evaluate as run_episodes
from fastdqn.presets import PRESETS
from fastdqn.record.console import make_display
from fastdqn.record.files import to_json, write_whole
from fastdqn.record.recorder import steps_per_second

# What ends a run by its own numbers: one line and exit code 1, not a traceback.
RUN_FAILURES = (NonFiniteError, local.DivergedError)


class Trained(NamedTuple):
    """folder of the run, and what its summary.json holds."""

    folder: Path
    summary: dict[str, Any]


def train(
    config: Config | str,
    envs: VectorEnv | None = None,
    *,
    eval_envs: VectorEnv | None = None,
    torso: nn.Module | None = None,
    quiet: bool = True,
    imports_seconds: float = 0.0,
    **overrides,
) -> Trained:
    """Train an agent and write its run folder.

    config  a Config, the name of a preset, or the id of a registered environment
    envs    a VectorEnv of yours in place of config.env_id, which then only labels the run;
            it is evaluated only on eval_envs, if you give some. The caller closes both.
    torso   nn.Module from observations [B, *] float32 to features [B, F], in place of the MLP
    overrides  options of Config by name: num_envs=64, seed=2

    Raises ConfigError with all mistakes, a line each; NonFiniteError and DivergedError where
    numbers stop being finite, with the run's record complete up to there.
    """
    config = preset(config) if isinstance(config, str) else config
    if envs is not None:
        overrides.setdefault("num_envs", envs.num_envs)
    config = config.replace(**overrides)
    spaces = None
    try:
        if envs is not None:
            spaces = read_spaces(envs.single_observation_space, envs.single_action_space)
    except ValueError as error:
        raise ConfigError([*config.problems(), str(error)]) from None
    if lines := checks.check(config, spaces):
        raise ConfigError(lines)

    def display(resolved: Config):
        return make_display(f"fastdqn  {resolved.env_id}  {resolved.preset}", quiet)

    session = build.build(config, display, envs, eval_envs, torso)
    session.startup.totals["imports"] = imports_seconds
    try:
        return _run(session)
    finally:
        session.close()


def preset(name: str) -> Config:
    """The settings of a preset, or the defaults for an environment id.

    Raises ConfigError with the nearest names where it is neither.
    """
    if name in PRESETS:
        return PRESETS[name]
    try:
        find_spec(name)
    except ValueError as error:
        near = " or ".join(filter(None, (nearest(name, PRESETS), nearest(name, registered()))))
        if ":" in name or not near:
            raise ConfigError([str(error)]) from None
        line = f"no preset or environment is called {name!r}: did you mean {near}?"
        raise ConfigError([line]) from None
    return Config(env_id=name)


def check(config: Config) -> list[str]:
    """Every mistake in a config, one line each; none means that train() will start."""
    return checks.check(config)


def plan(config: Config) -> str:
    """What a run would do: resolved options, memory, replay ratio. Raises ConfigError."""
    if lines := check(config):
        raise ConfigError(lines)
    resolved, facts = build.preview(config)
    values = json.loads(resolved.to_json())
    width = max(map(len, values))
    return "\n".join(
        [
            *(f"{name:{width}}  {values[name]}" for name in values),
            "",
            f"observations {facts.obs_shape} {facts.obs_dtype}, {facts.num_actions} actions",
            f"the replay takes {checks.replay_bytes(resolved, facts) / 2**20:,.1f} MiB",
            _replay_ratio(resolved),
        ]
    )


def load_policy(
    run: str | Path, *, weights: str = "best", torso: nn.Module | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Load the greedy policy of a run folder, or of a .safetensors file: obs [N, *] to actions [N].

    weights  best: by evaluation, the last if there was none · last
    torso    a module of the shape that the run was trained with, if it was one of yours
    Raises WeightsError, one line, where the file cannot be used.
    """
    return build.load_policy(weights_path(run, weights), torso)[0]


def weights_path(run: str | Path, weights: str = "best") -> Path:
    """The weights file of a run folder; weights is best or last, else ValueError."""
    path = Path(run)
    if path.is_file() or path.suffix == ".safetensors":
        return path
    if weights not in ("best", "last"):
        raise ValueError(f"weights is {weights!r}: it must be best or last")
    best = path / "best.safetensors"
    return best if weights == "best" and best.exists() else path / "policy.safetensors"


def evaluate(
    policy: Callable[[np.ndarray], np.ndarray],
    env: str | VectorEnv,
    *,
    episodes: int = 100,
    max_steps: int | None = None,
    seed: int = 0,
    **env_kwargs,
) -> Evaluation:
    """Run greedy episodes in parallel, none favoured for being short.

    policy     obs [N, *] to actions [N], counted from 0
    env        a registered id, or a VectorEnv, which stays open
    max_steps  cap on an episode; None: the environment's own limit, else 27,000
    """
    if isinstance(env, str):
        lanes = 1 if "render_mode" in env_kwargs else min(episodes, build.EVAL_LANES)
        envs = make_envs(env, lanes, "sync" if lanes == 1 else "auto", **env_kwargs)
        limit = find_spec(env).max_episode_steps
    else:
        envs, limit = env, getattr(env.spec, "max_episode_steps", None)
    try:
        return run_episodes(
            policy, EnvStream(envs), episodes, max_steps or limit or build.EVAL_MAX_STEPS,
            build.env_seed(seed, build.AUDIT),
        )  # fmt: skip
    finally:
        if isinstance(env, str):
            envs.close()


def evaluate_run(
    run: str, *, episodes: int, weights: str, seed: int, max_steps: int | None,
    env_id: str | None, render: bool, json: bool, out: Path | None,
) -> str:  # fmt: skip
    """`fastdqn eval`: evaluate a run's weights on its environment; returns what to print.

    Raises ConfigError where the run, the options or the environment cannot be used.
    """
    asked = Config(eval_episodes=episodes, eval_max_steps=max_steps, seed=seed)
    lines = [line.removeprefix("eval_") for line in asked.problems()]
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        lines.append(f"out is {str(out)!r}: name a file in a folder that exists")
    if lines:
        raise ConfigError(lines)
    try:
        path = weights_path(run, weights)
        policy, description = build.load_policy(path)
        env_id = env_id or _env_of(path)
        _require_same_spaces(env_id, description)
        kwargs = {"render_mode": "human"} if render else {}
        evaluation = evaluate(
            policy, env_id, episodes=episodes, max_steps=max_steps, seed=seed, **kwargs
        )
        result = evaluation.summary()
        text = to_json(result, indent=2)
        if out is not None:
            write_whole(out, text + "\n")
    except OSError as error:
        raise ConfigError([f"{error.filename or out}: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError(str(error).split("\n")) from None
    if json:
        return text
    return (
        f"{env_id}: return {result['mean_return']:.1f} +- {result['std_return']:.1f} over "
        f"{result['episodes']} greedy episodes (least {result['min_return']:.1f}, "
        f"{result['cut_episodes']} cut at the step cap)\nweights: {path}"
    )


def describe(trained: Trained) -> str:
    """What a run came to, in a few lines."""
    summary = trained.summary
    lines = [
        f"{summary['exit_reason']} after {summary['total_steps']:,} steps, "
        f"{summary['episodes']:,} episodes, {summary['updates']:,} updates; "
        f"{summary['steps_per_second']:,.0f} steps/s"
    ]
    if solved := summary["solved"]:
        lines.append(
            f"solved: two fresh evaluations reached {solved['threshold']:g} "
            f"{solved['seconds']:.1f} s after the process started"
        )
    if final := summary["eval"]:
        lines.append(
            f"final evaluation: return {final['mean_return']:.1f} +- {final['std_return']:.1f} "
            f"over {final['episodes']} greedy episodes"
        )
    return "\n".join([*lines, f"fastdqn eval {shlex.quote(str(trained.folder))}"])


def _env_of(weights: Path) -> str:
    config = weights.parent / "config.json"
    if not config.is_file():
        raise ValueError(f"{config} does not exist: name the environment with --env-id")
    return Config.from_json(config.read_text()).env_id


def _require_same_spaces(env_id: str, description: dict) -> None:
    facts = checks.probe(Config(env_id=env_id))
    learned = (tuple(description["obs_shape"]), description["num_actions"])
    if learned != (facts.obs_shape, facts.num_actions):
        raise ValueError(
            f"{env_id} has observations {facts.obs_shape} and {facts.num_actions} actions; these "
            f"weights were trained on {learned[0]} and {learned[1]}"
        )


def _replay_ratio(config: Config) -> str:
    ratio = config.batch_size / config.train_frequency
    return f"each transition is replayed {float(ratio):.3g} times"


def _run(session: build.Session) -> Trained:
    recorder, run, config = session.recorder, session.run, session.config
    recorder.say(
        f"run folder: {recorder.folder}\n{config.num_envs} environments ({config.vectorization}), "
        f"learner on {config.device} ({config.capture}, threads: {config.threads}); "
        + _replay_ratio(config)
    )
    try:
        reason = local.train(run)
    except KeyboardInterrupt:
        reason = "interrupted"
    recorder.save_last()
    run.laps.lap("save")
    summary = _summary(session, reason)
    recorder.summary(summary)
    return Trained(recorder.folder, summary)


def _summary(session: build.Session, reason: str) -> dict[str, Any]:
    config, run, judge = session.config, session.run, session.judge
    phases = dict(run.laps.totals)
    wall = run.laps.elapsed
    return {
        "env_id": config.env_id,
        "preset": config.preset,
        "seed": config.seed,
        "total_steps": run.progress.steps,
        "episodes": run.progress.episodes,
        "updates": run.progress.updates,
        "startup_seconds": dict(session.startup.totals),
        "wall_seconds": wall,
        "steps_per_second": steps_per_second(run.progress.steps, phases),
        "phase_seconds": phases,
        "eval": None if reason == "interrupted" else _final_evaluation(session),
        "solved": judge.solved._asdict() if judge is not None and judge.solved else None,
        "exit_reason": reason,
    }


def _final_evaluation(session: build.Session) -> dict[str, Any] | None:
    """Evaluate the best weights, or the last without a judge, on seeds that decided nothing."""
    if session.evaluations is None:
        return None
    judge = session.judge
    steps = session.run.progress.steps if judge is None else judge.best_steps
    policy = session.run.policy
    if judge is not None:
        policy = build.saved_policy(session.recorder.folder / "best.safetensors", policy)
    evaluation = session.evaluations(build.FINAL, 0, policy)
    session.recorder.evaluation(steps, "final", evaluation)
    return {**evaluation.summary(), "steps_at_eval": steps}
