"""Set-up resolves the options once, and makes no environments but those it needs."""

import fastdqn
from fastdqn.builders import auto_options, preflight
from fastdqn.config.schema import Config, ResolvedConfig
from fastdqn.envs import EnvStream

SHORT = {
    "num_envs": 2, "total_timesteps": 200, "learning_starts": 50, "eval_episodes": 1,
    "eval_max_steps": 10, "stop_at_return": None,
}  # fmt: skip


def counted(monkeypatch, calls: list[str], owner, name: str) -> None:
    """Records each call of a function or method."""
    real = getattr(owner, name)

    def call(*args, **kwargs):
        calls.append(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def test_a_run_resolves_its_options_once_and_starts_three_streams(tmp_path, monkeypatch):
    calls: list[str] = []
    counted(monkeypatch, calls, preflight, "resolve")
    counted(monkeypatch, calls, auto_options, "measure_network")
    counted(monkeypatch, calls, EnvStream, "__init__")
    counted(monkeypatch, calls, Config, "replace")
    fastdqn.train("cartpole", run_dir=tmp_path / "run", **SHORT)
    assert calls.count("resolve") == calls.count("measure_network") == 1
    assert calls.count("__init__") == 3  # a trial environment, training, evaluation
    # The user's options, what the environment's spaces decide, and the folder in both.
    assert calls.count("replace") == 4


def test_a_resumed_run_resolves_its_options_once(tmp_path, monkeypatch):
    run = fastdqn.train("cartpole", run_dir=tmp_path / "run", **SHORT)
    calls: list[str] = []
    counted(monkeypatch, calls, preflight, "resolve")
    fastdqn.resume(run.folder, total_timesteps=300)
    assert calls == ["resolve"]


def test_resolved_options_resolve_to_themselves(tmp_path):
    setup, lines = preflight.prepare(Config(run_dir=str(tmp_path / "run"), **SHORT))
    assert setup is not None, lines
    again = auto_options.resolve(setup.config, setup.facts, setup.config.vectorization).config
    assert type(again) is ResolvedConfig
    assert again == setup.config
