"""Recorded numbers: names of metrics and columns, and checks of those that users add."""

from typing import Any

from fastdqn.config.info_keys import info_metric

EPISODE_COLUMNS = ("episode", "steps", "lane", "return", "length")
# Keys of an evaluation's summary that begin with mean_, as those of --info-keys do.
_EVALUATION_MEANS = frozenset({"mean_return", "mean_length", "mean_predicted", "mean_discounted"})
METRICS = frozenset({
    "step", "global_step",
    "rollout/exploration_rate", "rollout/episodes", "rollout/restarted_envs",
    "rollout/ep_rew_mean", "rollout/ep_len_mean",
    "charts/SPS", "charts/episodic_return", "charts/episodic_length",
    "time/total_timesteps", "time/time_elapsed", "time/total_frames", "time/fps",
    "time/env_steps_per_second", "time/learner_updates_per_second",
    "train/n_updates", "train/loss", "train/learning_rate", "losses/td_loss", "losses/q_values",
    "eval/mean_reward", "eval/mean_ep_length", "eval/predicted_return", "eval/discounted_return",
})  # fmt: skip
SHARE = "time/share/"  # followed by the name of a phase


def metric_problem(name: Any, info_keys: tuple[str, ...] = ()) -> str | None:
    """Returns why a user's metric cannot have a name, or None.

    Args:
        name: The name.
        info_keys: Keys of info that the run records.
    """
    if line := _text_problem(name):
        return f"name is {line}, such as my/metric"
    means = {info_metric(key, group) for key in info_keys for group in ("rollout", "eval")}
    own = means | {f"{mean}_episodes" for mean in means}
    if name in METRICS or name in own or name.startswith(SHARE):
        return f"name is {name!r}, a metric that the run records itself: choose another name"
    return None


def info_key_problems(keys: tuple[str, ...]) -> list[str]:
    """Returns a message for each key of info that cannot be recorded under its name."""
    lines, metrics = [], {}
    for key in keys:
        other = metrics.setdefault(info_metric(key), key)
        if line := _text_problem(key):
            lines.append(f"info_keys has {line}, such as is_success")
        elif any(mark in key for mark in ',"'):  # it is a column of a CSV file
            lines.append(
                f"info_keys has {key!r:.60}: a key must be without commas and quotes. Rename it "
                "in a wrapper of the environment"
            )
        elif column := _own_column(key):
            lines.append(
                f"info_keys has {key!r}, and the run records its own {column}: rename the key in "
                "a wrapper of the environment"
            )
        elif other != key:
            lines.append(
                f"info_keys has {other!r} and {key!r}, which are both recorded as "
                f"{info_metric(key)}: leave one out"
            )
        elif key.removesuffix("_episodes") in set(keys) - {key}:
            lines.append(
                f"info_keys has {key!r}, the name for the number of episodes of "
                f"{key.removesuffix('_episodes')!r}: rename the key in a wrapper of the environment"
            )
    twice = dict.fromkeys(key for key in keys if keys.count(key) > 1)
    return lines + [f"info_keys has {key!r:.60} more than once: name it once" for key in twice]


def _own_column(key: str) -> str | None:
    """Returns the column or metric of the run whose name a key of info would take, or None."""
    if key in EPISODE_COLUMNS:
        return f"column {key} in episodes.csv"
    if f"mean_{key}" in _EVALUATION_MEANS:
        return f"mean_{key} of an evaluation"
    names = [info_metric(key, group) for group in ("rollout", "eval")]
    return next((f"metric {name}" for name in names if name in METRICS), None)


def _text_problem(name: Any) -> str | None:
    """Returns what is wrong with a name that is not one line of text, or None."""
    if isinstance(name, str) and name and name.isprintable():
        return None
    return f"{name!r:.60}: it must be a text of one line"
