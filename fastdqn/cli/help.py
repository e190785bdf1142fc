"""Help texts: groups the options of a command by topic."""

import ast
import dataclasses
import inspect
from typing import Annotated, Any, get_type_hints

import tyro

# The first field of Config in each group, and the title of the group.
GROUPS = {
    "env_id": "environment",
    "num_envs": "run",
    "learning_rate": "learning",
    "double": "techniques",
    "torso": "network",
    "exploration": "exploration",
    "eval_frequency": "evaluation",
    "device": "performance",
    "run_dir": "output",
}


def grouped(options: Any) -> Any:
    """Returns options with their config split into groups, for display only.

    Names, defaults and help texts stay the same. Options without a config are returned unchanged.
    """
    if not hasattr(options, "config"):
        return options
    config, parts = options.config, {}
    of_config = _arguments(type(config))
    group = "settings"
    for name, argument in of_config.items():
        group = GROUPS.get(name, group)
        parts.setdefault(group, []).append((name, argument, getattr(config, name)))
    made = {name: _record(name, members) for name, members in parts.items()}
    own = [
        (name, argument, getattr(options, name))
        for name, argument in _arguments(type(options)).items()
        if name != "config"
    ]
    nested = [(name, tyro.conf.OmitArgPrefixes[type(each)], each) for name, each in made.items()]
    return _record("options", [*nested, *own])


def _record(name: str, members: list[tuple[str, Any, Any]]) -> Any:
    """Returns an instance of a new dataclass with fields (name, type, value)."""
    fields = [(each, kind) for each, kind, _ in members]
    made = dataclasses.make_dataclass(name, fields, namespace={"__doc__": ""})
    return made(**{each: value for each, _, value in members})


def _arguments(record: type) -> dict[str, Any]:
    """Returns the types of the fields, annotated with their help texts."""
    said = sentences(record)
    return {
        name: Annotated[hint, tyro.conf.arg(help=said.get(name, ""))]
        for name, hint in get_type_hints(record, include_extras=True).items()
    }


def sentences(record: type) -> dict[str, str]:
    """The sentence under each field of a dataclass in its source, by field."""
    body = ast.parse(inspect.getsource(record)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        below_it = below.value if isinstance(below, ast.Expr) else None
        name = field.target if isinstance(field, ast.AnnAssign) else None
        sentence = below_it.value if isinstance(below_it, ast.Constant) else None
        if isinstance(name, ast.Name) and isinstance(sentence, str):
            found[name.id] = " ".join(sentence.split())
    return found
