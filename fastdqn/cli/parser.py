"""Parser of options: command line arguments into a dataclass, by tyro, collecting all errors."""

import ast
import contextlib
import functools
import io
import re
from collections.abc import Sequence
from dataclasses import is_dataclass, make_dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar, get_args, get_origin

from fastdqn.config.limits import fits, spell
from fastdqn.config.option import Option, options_of
from fastdqn.config.schema import FLAGS, RENAMED, as_fraction, unknown_name
from fastdqn.system.standard_streams import print_error


class HelpShown(Exception):
    """The help has been printed, and the program ends."""


Options = TypeVar("Options")


@functools.cache
def _registry() -> Any:
    """Returns tyro's registry with the forms of fractions and NAME=VALUE pairs."""
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    for rule in (_fraction_rule, _kwargs_rule):
        registry.primitive_rule(rule)
    return registry


def _fraction_rule(info: Any) -> Any:
    from tyro.constructors import PrimitiveConstructorSpec

    if info.type is not Fraction:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER|P/Q",
        instance_from_str=lambda words: _parse_fraction(words[0]),
        is_instance=lambda value: isinstance(value, Fraction),
        str_from_instance=lambda value: [str(value)],
    )


def _kwargs_rule(info: Any) -> Any:
    from tyro.constructors import PrimitiveConstructorSpec

    if get_origin(info.type) is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=lambda words: dict(map(_parse_kwarg, words)),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={given!r}" for name, given in value.items()],
    )


def parse(args: Sequence[str], default: Options, prog: str) -> tuple[Options, list[str]]:
    """Parses args on top of a default instance. Returns (options, error messages).

    tyro stops at the first kind of error. If it fails, each option is parsed separately: valid
    ones are applied, and each invalid one gives a message.

    Raises:
        HelpShown: args contain --help or -h, and the help has been printed.
    """
    args, values, lines = take_repeated(args, type(default))
    if values:
        default = replace(default, **values)  # pyright: ignore[reportArgumentType]
    if not args:
        return default, lines  # without tyro, whose import and parser take 0.1 s
    flags = _second_names(type(default)) | _second_names(type(getattr(default, "config", None)))
    args = [_current_name(word, flags) for word in args]
    args = [_none_of(word, options_of(type(default))) for word in args]
    args = _capitalized(args, default)
    if "--help" in args or "-h" in args:
        from fastdqn.cli.help import grouped

        shown = grouped(default)
        try:
            _tyro(["--help"], shown, prog)
        except SystemExit:
            raise HelpShown from None
    parsed = _try(args, default)
    if parsed is not None and "--" not in args:
        return parsed, lines
    found: list[str] = []
    known = options_of(type(default))
    if "config" in known:
        known = known | options_of(type(getattr(default, "config", None)))
    for group in groups(args):
        changed = _try(group, default)
        if changed is None:
            found.append(_mistake(group, known))
        else:
            default = changed
    return default, lines + (found or ["unexpected '--': options directly follow the name"])


def take_repeated(
    args: Sequence[str], record: type
) -> tuple[list[str], dict[str, tuple[str, ...]], list[str]]:
    """Takes options that may be repeated out of args. The word after one is always its value.

    Returns (other arguments, values by option, error messages).
    """
    names = {name for name, option in options_of(record).items() if option.repeated}
    others, values, lines = list[str](), dict[str, tuple[str, ...]](), list[str]()
    words = iter(args)
    for word in words:
        flag, equals, attached = word.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") or name not in names:
            others.append(word)
        elif (value := attached if equals else next(words, None)) is None:
            lines.append(f'{flag} has no value: it must be options in quotes, {flag} "--n-steps 3"')
        else:
            values[name] = (*values.get(name, ()), value)
    return others, values, lines


def given(args: Sequence[str]) -> dict[str, list[str]]:
    """Returns the options in args with their words, by current name. The last of two counts.

    The first word is the flag with the current name and dashes, such as --n-steps or --gamma=0.9.
    """
    found = {}
    for group in groups(args):
        if group[0].startswith("--"):
            flag, equals, attached = group[0].partition("=")
            name = FLAGS.get(flag, flag)[2:].replace("-", "_")
            name = RENAMED.get(name, name)
            found[name] = [f"--{name.replace('_', '-')}{equals}{attached}", *group[1:]]
    return found


def _tyro(args: list[str], default: Options, prog: str) -> Options:
    """Parses args with tyro. Raises SystemExit for help and for an error, which is printed."""
    import tyro

    # Options of the config are named --seed, not --config.seed.
    form = tyro.conf.OmitArgPrefixes[type(default)]
    return tyro.cli(form, args=args, default=default, prog=prog, registry=_registry())


def _none_of(word: str, options: dict[str, Option]) -> str:
    """Returns --wrapper without a value for --no-wrapper: no names, in place of None."""
    name = word.removeprefix("--no-").replace("-", "_")
    option = options.get(name)
    if not word.startswith("--no-") or option is None or tuple not in _origins(option.hint):
        return word
    return f"--{word.removeprefix('--no-')}"


def _capitalized(args: Sequence[str], default: Any) -> list[str]:
    """Returns words as tyro reads them, for numbers and switches that may be None.

    true, false and none may have any case. A switch may stand alone, or begin with --no-.
    """
    records = (default, getattr(default, "config", None))
    known = [options_of(type(record)) for record in records if is_dataclass(record)]
    hints = {name: get_args(option.hint) for options in known for name, option in options.items()}
    optional = {name: arms for name, arms in hints.items() if _may_be_none(arms)}
    words = {"true": "True", "false": "False", "none": "None"}
    found: list[str] = []
    for word, after in zip(args, [*args[1:], "--"], strict=True):
        flag, equals, attached = word.partition("=")
        name, switch = _name(flag), _name(flag).removeprefix("no_")
        if equals and name in optional:
            found.append(f"{flag}={words.get(attached.lower(), attached)}")
        elif bool in optional.get(switch, ()) and after.startswith("--"):
            found += [f"--{switch.replace('_', '-')}", str(name == switch)]
        elif found and _name(found[-1]) in optional:
            found.append(words.get(word.lower(), word))
        else:
            found.append(word)
    return found


def _name(flag: str) -> str:
    """Returns the name of an option, '' for other words."""
    return flag[2:].replace("-", "_") if flag.startswith("--") else ""


def _may_be_none(arms: Sequence[Any]) -> bool:
    """Whether the arms of a hint have None, and no text, of which none could be one."""
    return type(None) in arms and str not in arms


def _origins(hint: Any) -> list[Any]:
    return [get_origin(each) for each in (hint, *get_args(hint))]


def _second_names(record: type) -> dict[str, str]:
    """Returns the flags of a dataclass that have two names, second to first."""
    if not is_dataclass(record):
        return {}
    known = options_of(record).items()
    return {f"--{each.flag}": f"--{name.replace('_', '-')}" for name, each in known if each.flag}


def _current_name(word: str, flags: dict[str, str]) -> str:
    """Returns an option by its current name, and warns if it is an old one."""
    flag, equals, attached = word.partition("=")
    if flag in flags:
        return f"{flags[flag]}{equals}{attached}"
    new = RENAMED.get(flag.removeprefix("--").replace("-", "_"))
    if new is None or not flag.startswith("--"):
        return word
    print_error(f"warning: {flag} is now called --{new.replace('_', '-')}")
    return f"--{new.replace('_', '-')}{equals}{attached}"


def take_several(args: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """Takes an option of one value that is given several, as for a sweep, out of args.

    Returns:
        Other args, and the values. If there is at most one value, args are unchanged.
    """
    named = [group for group in groups(args) if group[0] == flag]
    if not named or len(named[-1]) < 3:  # the last one counts
        return list(args), []
    rest = [word for group in groups(args) if group[0] != flag for word in group]
    return rest, list(dict.fromkeys(named[-1][1:]))


def groups(args: Sequence[str]) -> list[list[str]]:
    """Returns each option with its values. Words before the first option form a group too."""
    groups: list[list[str]] = []
    for word in args:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _try(args: Sequence[str], default: Options) -> Options | None:
    """Returns the options with those in args changed, or None if args contain a mistake."""
    named = _named(args, default)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            found = vars(_tyro(list(args), named, ""))
        except SystemExit:
            return None
    parsed = _with_values(default, found)
    return parsed if _names_parts(parsed) else None


def _named(args: Sequence[str], options: Any) -> Any:
    """Returns the options that args name, and their values, as an instance of a new dataclass.

    tyro inspects each field anew at each call, which takes 0.1 s for all options.
    """
    words = {word.partition("=")[0].replace("-", "_") for word in args if word.startswith("--")}
    members = {
        name: (option.hint, getattr(record, name))
        for record in (getattr(options, "config", None), options)
        for name, option in (options_of(type(record)).items() if record is not None else ())
        if name != "config" and not words.isdisjoint({f"__{name}", f"__no_{name}"})
    }
    made = make_dataclass("options", [(name, hint) for name, (hint, _) in members.items()])
    return made(**{name: value for name, (_, value) in members.items()})


def _with_values(options: Any, values: dict[str, Any]) -> Any:
    """Returns options with these values, those of the config inside."""
    own = {name: value for name, value in values.items() if name in options_of(type(options))}
    if config := {name: value for name, value in values.items() if name not in own}:
        own["config"] = replace(options.config, **config)
    return replace(options, **own)


def _names_parts(parsed: Any) -> bool:
    """Returns whether options that name parts are words or module:Name. To tyro they are text."""
    return all(
        fits(getattr(record, name), option)
        for record in (parsed, getattr(parsed, "config", None))
        if is_dataclass(record)
        for name, option in options_of(type(record)).items()
        if option.part is not None
    )


def _mistake(group: list[str], options: dict[str, Option]) -> str:
    word, *values = group
    if not word.startswith("--"):
        return f"unexpected argument {word!r}: options begin with --"
    flag, _, attached = word.partition("=")
    name = flag[2:].replace("-", "_")
    hints = {name: option.hint for name, option in options.items()}
    known = {"--" + key.replace("_", "-"): key for key in hints if key != "config"}
    known |= {"--no-" + key.replace("_", "-"): key for key, hint in hints.items() if hint is bool}
    if flag.replace("_", "-") not in known:
        return unknown_name("option", flag, known)
    given = " ".join([attached, *values] if attached else values)
    if name not in hints or hints[name] is bool:
        return f"{flag} takes no value, got {given!r}"
    if not given:
        return f"{flag} has no value: it must be {spell(options[name])}"
    return f"{flag} is {given!r}: it must be {spell(options[name])}"


def _parse_fraction(word: str) -> Fraction:
    value = as_fraction(word)
    if not isinstance(value, Fraction):
        raise ValueError(f"{word!r} is neither a number nor a fraction such as 1/3")
    return value


_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NUMBER = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)


def _parse_kwarg(word: str) -> tuple[str, Any]:
    """Parses 'size=8' into ('size', 8): the value is a Python literal, or else a string."""
    name, equals, text = word.partition("=")
    if not equals or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{word!r} is not NAME=VALUE")
    if text.lower() in _WORDS:
        return name, _WORDS[text.lower()]
    if _NUMBER.fullmatch(text):  # rejected later as a number, instead of passed on as a string
        return name, float(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, text
    return name, list(value) if isinstance(value, tuple) else value
