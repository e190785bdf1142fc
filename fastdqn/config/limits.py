"""Rules: what values the options of a run may have, each alone."""

import math
import types
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

from fastdqn.config.conflicts import conflicts


def type_problems(values: dict[str, Any], hints: dict[str, Any]) -> list[str]:
    """A line for every value that is not of the type in hints."""
    return [
        f"{name} is {_short(values[name])}: it must be {spell(hint)}"
        for name, hint in hints.items()
        if not _is_instance(values[name], hint)
    ]


def limit_problems(values: dict[str, Any]) -> list[str]:
    """A line for every value beyond its limits, and for every contradiction between others."""
    beyond = {name: _beyond(name, values[name], limit) for name, limit in _LIMITS.items()}
    lines = [line for line in beyond.values() if line]
    for names, broken, line in conflicts(types.SimpleNamespace(**values)):
        if broken and not any(beyond.get(name) for name in names.split()):
            lines.append(line)
    return lines


def beyond(values: dict[str, Any], limits: "dict[str, Limit]") -> list[str]:
    """A line for every value beyond limits that are its record's own."""
    lines = [_beyond(name, values[name], limit) for name, limit in limits.items()]
    return [line for line in lines if line]


@dataclass(frozen=True)
class Limit:
    """An interval of finite numbers: low <= x <= high, or low < x where open."""

    low: float
    high: float = math.inf
    open: bool = False

    def holds(self, number) -> bool:
        try:
            finite = math.isfinite(number)
        except OverflowError:  # a whole number or fraction beyond any float
            return False
        if not finite:
            return False
        return (self.low < number if self.open else self.low <= number) and number <= self.high

    @property
    def text(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        low = f"above {self.low:,}" if self.open else f"at least {self.low:,}"
        return f"a number, {low}" + ("" if self.high == math.inf else f", at most {self.high:,}")


_COUNT = Limit(1, 1 << 40)
_SHARE = Limit(0, 1)
_POSITIVE = Limit(0, open=True)
_LIMITS = {
    "num_envs": Limit(1, 1 << 20),
    "env_batch_size": Limit(1, 1 << 20),
    # Threads do not wait for longer than some 292 years, in nanoseconds.
    "max_step_seconds": Limit(0, 1e9, open=True),
    "restart_envs": Limit(0, 1 << 20),
    "total_timesteps": _COUNT,
    "total_episodes": _COUNT,
    "seed": Limit(0, (1 << 63) - 1),
    "learning_rate": _POSITIVE,
    "adam_epsilon": _POSITIVE,
    "buffer_size": _COUNT,
    "learning_starts": Limit(0, 1 << 40),
    "batch_size": Limit(1, 1 << 24),
    "train_frequency": Limit(1e-6, 1 << 40),
    "target_network_frequency": _COUNT,
    "tau": Limit(0, 1, open=True),
    "gamma": _SHARE,
    "n_steps": Limit(1, 1 << 16),
    "max_grad_norm": _POSITIVE,
    "munchausen_alpha": _SHARE,
    # Values are divided by it, in float32.
    "munchausen_temperature": Limit(1e-6, 1e6),
    "munchausen_floor": Limit(-1e9, 0),
    "dueling_gradient_scale": Limit(0, 1e3),
    "num_atoms": Limit(2, 1 << 16),
    "v_min": Limit(-1e30, 1e30),
    "v_max": Limit(-1e30, 1e30),
    "num_quantiles": Limit(1, 1 << 16),
    "num_fractions": Limit(1, 1 << 16),
    "num_target_fractions": Limit(1, 1 << 16),
    "num_policy_fractions": Limit(1, 1 << 16),
    "noisy_sigma": Limit(0, 1e6),
    "priority_exponent": _SHARE,
    "importance_exponent": _SHARE,
    "hidden_sizes": Limit(1, 1 << 20),
    "ladder_epsilon": _SHARE,
    "ladder_alpha": Limit(0, 1e6),
    "exploration_initial_eps": _SHARE,
    "exploration_final_eps": _SHARE,
    "exploration_fraction": _SHARE,
    "exploration_decay": Limit(0, 1, open=True),
    "exploration_zeta": Limit(1, 100),
    "eval_frequency": Limit(0, 1 << 40),
    "eval_episodes": Limit(1, 1 << 20),
    "eval_max_steps": _COUNT,
    "stop_at_return": Limit(-math.inf),
    "threads": Limit(1, 256),
    "updates_per_launch": Limit(1, 64),
    "priority_lag": Limit(0, 1),
    "log_frequency": _COUNT,
    "checkpoint_frequency": _COUNT,
    "checkpoint_seconds": Limit(0, open=True),
}


def _short(value: Any) -> str:
    """A value as it is written, at most 60 characters of it."""
    try:
        text = str(value) if isinstance(value, int | float | Fraction) else repr(value)
    except ValueError:  # an integer of more digits than Python writes out
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def _beyond(name: str, value: Any, limit: Limit) -> str | None:
    if value is None:
        return None
    for number in value if isinstance(value, tuple) else (value,):
        if not limit.holds(number):
            return f"{name} is {_short(number)}: it must be {limit.text}"
    return None


def _is_instance(value, hint) -> bool:
    if get_origin(hint) is types.UnionType:
        return any(_is_instance(value, arm) for arm in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_instance(v, get_args(hint)[0]) for v in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and _is_json(value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def _is_json(value: Any) -> bool:
    """Whether config.json can hold the value, and give it back as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(v) for key, v in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, int):
        return abs(value) < 1 << 64  # Python refuses to write out what is very long
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no other
    return value is None or isinstance(value, str)


def spell(hint) -> str:
    """A type hint of an option in words."""
    if get_origin(hint) is types.UnionType:
        return " or ".join(spell(arm) for arm in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        words = {int: "whole numbers", float: "numbers"}
        return words.get(get_args(hint)[0], "names such as my_package:MyWrapper")
    if get_origin(hint) is dict:
        return (
            "names with plain values, such as size=8 slippery=False; what else an environment "
            "takes, tuples and infinities among it, a function of yours can give that makes and "
            "registers it"
        )
    names = {
        int: "a whole number",
        float: "a number",
        Fraction: "a number or a fraction such as 1/3",
        str: "a text",
        bool: "true or false",
        type(None): "None",
    }
    return names.get(hint) or f"a {hint.__name__.lower()}"
