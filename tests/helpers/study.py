"""Synthetic rows of the study."""

from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


EPISODES = {"episodes": 500, "episode_of_195": 250, "episode_of_475": None}


def result(job, value: float | None = 100.0) -> dict:
    curve = [
        {"step": step, "mean_return": 50.0, "predicted": 12.0, "realised": 10.0}
        for step in (10, 20)
    ]  # fmt: skip
    return {
        **job._asdict(), "diverged": None, "steps": 20, "updates": 5, "curve": curve,
        "last_return": value, "cpu_seconds": 2.0, "highest_mean_of_100": 200.0, **EPISODES,
    }  # fmt: skip
