"""Small sweeps."""

from types import SimpleNamespace

import pytest

from fastdqn.cli import sweep
from fastdqn.cli.main import main
from fastdqn.config.schema import Config


@pytest.fixture
def trained(monkeypatch):
    """Replaces training: the return depends on learning rate and seed. Yields the configs."""
    configs: list[Config] = []

    def train(config: Config):
        configs.append(config)
        mean = 1_000 * config.learning_rate - (config.seed - sweep.FIRST_SEED)
        summary = {"exit_reason": "budget spent", "eval": {"mean_return": mean}}
        return SimpleNamespace(summary=summary)

    monkeypatch.setattr(sweep.api, "train", train)
    return configs


def run(tmp_path, *words: str) -> int:
    return main(["sweep", "cartpole", "--out", str(tmp_path / "s.journal"), *words])
