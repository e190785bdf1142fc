"""Parts: finds the class or function that an option names, and makes the part.

A part is a class whose constructor takes options by their names, or a function that returns one.
Arguments that are not options come from part_kwargs, or have defaults.
"""

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdqn.checkpoints.format import TENSOR
from fastdqn.config.conflicts import chosen_backup, chosen_sampler
from fastdqn.config.limits import beyond, fits, spell
from fastdqn.config.option import options_of
from fastdqn.config.registry import CUSTOM, WORDS
from fastdqn.config.schema import Config, ConfigError, as_fraction
from fastdqn.envs.errors import one_line
from fastdqn.envs.registry import find_object

# What a part of each kind must have. A schedule is called with steps and episodes.
_MEMBERS = {
    "value": ("outputs_per_action", "bounds", "takes_bonus", "to", "wrap_head",
              "fractions_of_passes", "expected", "target", "loss"),
    "backup": ("asks_target_next", "asks_online_next", "asks_target_obs", "__call__"),
    "sampler": ("wants_priorities", "nbytes", "follow", "draw", "update", "state", "load_state"),
    "optimizer": ("learning_rate", "step", "tensors"),
    "learning_rate_schedule": ("__call__",),
    "exploration": ("__call__",),
    "loss": ("__call__",),
    "torso": ("forward",),
}  # fmt: skip
# The base class that has defaults of most members, for an error message.
_BASES = {
    "value": "fastdqn.learning.value.Value",
    "backup": "fastdqn.learning.bootstrap_targets.Backup",
    "sampler": "fastdqn.replay.Sampler",
    "optimizer": "fastdqn.learning.optimizer.Optimizer",
}
# Dtypes of tensors that a checkpoint can store.
_SAVED = (
    torch.float32, torch.float64, torch.float16, torch.bool, torch.uint8, torch.int8, torch.int16,
    torch.int32, torch.int64,
)  # fmt: skip
PART_OPTIONS = tuple(name for name, option in options_of(Config).items() if option.part)


class UserParts(NamedTuple):
    """Objects that were passed from Python.

    Attributes:
        torso: Replaces the torso, or None.
        objects: Parts by option. The option itself is then custom.
    """

    torso: nn.Module | None = None
    objects: Mapping[str, Any] = {}


NO_PARTS = UserParts()


def find_part(option: str, name: str, own: UserParts = NO_PARTS) -> Any:
    """Returns the class, function or object that an option names.

    Args:
        option: Name of the option, such as value.
        name: Its value: a registered word, module:Name, or custom.
        own: Objects from Python, for custom.

    Raises:
        ConfigError: There is none.
    """
    if name == CUSTOM:
        found = own.torso if option == "torso" else own.objects.get(option)
        if found is None:
            raise ConfigError(
                [f"{option} is custom, an object from Python: pass it again, as {option}=..."]
            )
        return found
    if ":" in name:
        try:
            return find_object(name, f"{option} {name!r}")
        except ValueError as error:
            raise ConfigError([str(error)]) from None
    module, _, attribute = WORDS[option][name].partition(":")
    if not module:  # auto, and torsos that observations choose
        raise ConfigError(
            [f"{option} {name!r} cannot be an argument of another part: remove that parameter"]
        )  # fmt: skip
    return getattr(importlib.import_module(module), attribute)


def make_part(
    option: str, options: Any, own: UserParts = NO_PARTS, name: str | None = None, **given: Any
) -> Any:
    """Makes the part that an option names.

    Args:
        option: Name of the option, such as value.
        options: A Config, or the description of a network as a dict.
        own: Objects from Python.
        name: Value of the option, if it is not in options.
        **given: Arguments by name, in place of the options of these names.

    Raises:
        ConfigError: The part cannot be made, or lacks a member.
    """
    name = name or str(_get(options, option))
    found = find_part(option, name, own)
    what = _title(option, name, found)
    ready = is_ready(option, found)
    extra = _extra(option, options)
    if ready and extra:
        raise ConfigError([_takes_nothing(option, next(iter(extra)), what)])
    if name in WORDS[option]:  # the limits of options also protect from a hostile weights file
        _require_options(option, extra)
    arguments = {} if ready else _arguments(found, option, options, own, given, what, extra)
    try:
        made = copy.deepcopy(found) if ready else found(**arguments)
    except (Exception, SystemExit) as error:  # user code may raise anything
        verb = "copied" if ready else "made"
        raise ConfigError([f"{what} cannot be {verb}: {one_line(error)}"]) from error
    missing = [member for member in _MEMBERS[option] if not hasattr(made, member)]
    if missing:
        hint = f": {_BASES[option]} lists what it needs" if option in _BASES else ""
        raise ConfigError([f"{what} has no {missing[0]}{hint}"])
    if line := {"optimizer": _optimizer_problem, "value": _value_problem}.get(option, _no)(made):
        raise ConfigError([f"{what} {line}"])
    return made


def _no(made: Any) -> None:
    """Returns None: a part without attributes to check."""


def _optimizer_problem(optimizer: Any) -> str | None:
    """Returns what is wrong with the tensors of an optimizer, or None."""
    rate = optimizer.learning_rate
    if not isinstance(rate, Tensor):
        return f"has the learning_rate {rate!r:.60}: it must be a tensor, which schedules change"
    if rate.dtype != torch.float32 or rate.numel() != 1:
        return (
            f"has a learning_rate of {rate.dtype} {list(rate.shape)}: it must be a float32 scalar "
            "tensor"
        )
    tensors = optimizer.tensors()
    if not isinstance(tensors, dict):
        return f"returns a {type(tensors).__name__} from tensors(): it must be a dict by name"
    for name, tensor in tensors.items():
        if not isinstance(name, str) or TENSOR.fullmatch(name) is None:
            return f"names a tensor {name!r:.60}: use letters, digits and underscores"
        if not isinstance(tensor, Tensor):
            return f"returns {name} of type {type(tensor).__name__}: state must be tensors"
        if tensor.dtype not in _SAVED:
            return f"returns {name} of {tensor.dtype}, which cannot be saved: use float32"
    return None


def _value_problem(value: Any) -> str | None:
    """Returns what is wrong with the attributes of a value, or None."""
    outputs, bounds = value.outputs_per_action, value.bounds
    if outputs is not None and not (isinstance(outputs, int) and outputs >= 1):
        return (
            f"has outputs_per_action {outputs!r:.60}: it must be None or a whole number, at least 1"
        )
    if bounds is not None:
        pair = isinstance(bounds, tuple | list) and len(bounds) == 2
        if not pair or not all(isinstance(each, int | float) for each in bounds):
            return f"has bounds {bounds!r:.60}: they must be None or two numbers"
        if not bounds[0] < bounds[1]:
            return f"has bounds {bounds!r:.60}: the first must be below the second"
    return None


def is_ready(option: str, found: Any) -> bool:
    """Returns whether an object is the part itself, and not a class or function that makes it."""
    if isinstance(found, type | functools.partial) or option == "optimizer":
        return False
    if option == "loss":
        return True
    if inspect.isroutine(found):
        # A function of (steps, episodes) is a schedule; other functions make a part of options.
        names = tuple(_parameters(found))
        return option in ("exploration", "learning_rate_schedule") and "steps" in names
    return True


def part_options(option: str, name: str, own: UserParts = NO_PARTS) -> list[str]:
    """Returns the options that a part takes as arguments."""
    found = find_part(option, name, own)
    if is_ready(option, found):
        return []
    return [name for name in _parameters(found) if name in options_of(Config)]


def part_problems(config: Config, own: UserParts = NO_PARTS) -> list[str]:
    """Returns a message for each part that cannot be found, and each option that none reads."""
    lines, missing = [], set()
    for option in PART_OPTIONS:
        try:
            name = getattr(config, option)
            if ":" in name or name == CUSTOM:
                find_part(option, name, own)
        except ConfigError as error:
            lines += error.lines
            missing.add(option)
    for key in config.part_kwargs:
        option, dot, argument = key.partition(".")
        if not dot or not argument or option not in PART_OPTIONS:
            lines.append(
                f"part_kwargs sets {key!r}: name an argument of a part, such as "
                f"optimizer.weight_decay. Parts are {', '.join(PART_OPTIONS)}"
            )
        elif option not in missing:
            title, parameters = _signature_of(option, config, own)
            lines += _unknown_arguments(option, title, [argument], parameters)
    is_word = config.value in WORDS["value"]  # whose losses are checked with other conflicts
    if config.loss != Config.loss and not is_word and "value" not in missing:
        title, parameters = _signature_of("value", config, own)
        if "loss" not in parameters:
            lines.append(f"loss is {config.loss}, and {title} has its own loss: use --loss mse")
    return lines


def _takes_nothing(option: str, argument: str, what: str) -> str:
    return (
        f"part_kwargs sets {option}.{argument}, which {what} does not take: it takes no arguments"
    )


def importable_name(part: Any) -> str | None:
    """Returns the module:Name by which another process finds a class or function, or None."""
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    try:
        found = find_object(f"{module}:{name}", "part") if "<" not in name else None
    except ValueError:
        return None
    return f"{module}:{name}" if found is part else None


def _arguments(
    found: Callable[..., Any], option: str, options: Any, own: UserParts,
    given: Mapping[str, Any], what: str, extra: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Returns the arguments of a class or function: given, extra of part_kwargs, and options."""
    parameters, known, arguments = _parameters(found), options_of(Config), dict(extra)
    if lines := _unknown_arguments(option, what, extra, parameters):
        raise ConfigError(lines)
    if taken := [name for name in extra if name in given]:
        raise ConfigError(
            [f"part_kwargs sets {option}.{taken[0]}, which {what} receives from the run: leave it "
             "out"]
        )  # fmt: skip
    for name, parameter in parameters.items():
        if name in given:
            arguments[name] = given[name]
        elif name in known and name not in arguments:
            is_part = known[name].part is not None and name != option
            arguments[name] = make_part(name, options, own) if is_part else _get(options, name)
        elif name not in arguments and parameter.default is parameter.empty:
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            raise ConfigError(
                [f"{what} takes {name}, which is not an option: give it a default, or set it with "
                 f"--part-kwargs {option}.{name}=..."]
            )  # fmt: skip
    return arguments


def _signature_of(
    option: str, config: Config, own: UserParts
) -> tuple[str, Mapping[str, inspect.Parameter]]:
    """Returns the title of a part for messages, and the parameters of what makes it."""
    chosen = {"backup": chosen_backup, "sampler": chosen_sampler}
    name = chosen[option](config) if option in chosen else getattr(config, option)
    if option == "torso" and own.torso is not None:
        name = CUSTOM
    elif (option, name) == ("learning_rate_schedule", "constant") or WORDS[option].get(name) == "":
        return f"{option} {name!r}", {}
    found = find_part(option, name, own)
    return _title(option, name, found), {} if is_ready(option, found) else _parameters(found)


def _unknown_arguments(
    option: str, title: str, names: Iterable[str], parameters: Mapping[str, inspect.Parameter]
) -> list[str]:
    """Returns a message for each name that is not a parameter of a part."""
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return []
    return [
        f"part_kwargs sets {option}.{name}, which {title} does not take: it takes "
        f"{', '.join(parameters) or 'no arguments'}"
        for name in names
        if name not in parameters
    ]


def _title(option: str, name: str, found: Any) -> str:
    """Returns how messages name a part."""
    return f"{option} {name!r}" if name != CUSTOM else f"{option} {_name_of(found)}"


def _extra(option: str, options: Any) -> dict[str, Any]:
    """Returns the arguments that part_kwargs sets for the part of an option."""
    return {
        key.partition(".")[2]: value
        for key, value in _get(options, "part_kwargs").items()
        if key.partition(".")[0] == option
    }


def _require_options(option: str, extra: Mapping[str, Any]) -> None:
    """Raises ConfigError if part_kwargs sets an option to a value that the option rejects."""
    for name, value in extra.items():
        known = options_of(Config).get(name)
        if known is None:
            continue
        line = beyond(name, value, known.limit) if fits(value, known) else None
        if line or not fits(value, known):
            line = line or f"{name} is {value!r:.60}: it must be {spell(known)}"
            raise ConfigError([f"part_kwargs sets {option}.{name}, and {line}"])


def _parameters(found: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # a class of an extension module
        return {}


def _get(options: Any, name: str) -> Any:
    """Returns an option of a Config or of a description, in its type. Files may lack it."""
    if not isinstance(options, Mapping):
        return getattr(options, name)
    option = options_of(Config)[name]
    value = options.get(name, option.before)
    if option.hint is Fraction:
        return as_fraction(value)
    return tuple(value) if isinstance(value, list) else value


def _name_of(found: Any) -> str:
    return getattr(found, "__qualname__", type(found).__qualname__)
