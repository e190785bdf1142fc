"""Seams: no branch on an algorithm, no option read, no wait for a device where none belongs."""

import ast
from collections.abc import Iterator

from helpers.sources import FILES, MEETS_NUMPY, PACKAGE, parse, relative

# Methods of learning/ that say they wait for the device; nothing else may read it back.
WAITING = {"checksum", "largest_weight", "loss_total", "report", "state"}


def test_learning_reads_the_device_back_only_in_methods_that_say_so():
    used = []
    for file in FILES:
        if relative(file).startswith("learning/") and relative(file) not in MEETS_NUMPY:
            used += [f"{relative(file)}: {line}" for line in _reads_back(file.read_text())]
    assert used == []


def test_reading_back_is_seen_in_an_update_and_allowed_in_a_report():
    source = "def {}(self):\n    return [x.item() for x in self.totals]"
    assert _reads_back(source.format("update")) == ["update() calls .item()"]
    assert _reads_back(source.format("report")) == []


def _reads_back(source: str) -> list[str]:
    """Calls that wait for the device, by the function around them, WAITING left out."""
    found = []
    for function in ast.walk(parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name not in WAITING:
            for node in ast.walk(function):
                attribute = node.func if isinstance(node, ast.Call) else None
                if isinstance(attribute, ast.Attribute) and attribute.attr in (
                    "item", "tolist", "cpu", "numpy",
                ):  # fmt: skip
                    found.append(f"{function.name}() calls .{attribute.attr}()")
    return found


TECHNIQUES = {
    "double", "dueling", "noisy", "noisy_sigma", "prioritized", "priority_exponent",
    "importance_exponent", "munchausen", "munchausen_alpha", "munchausen_temperature",
    "munchausen_floor", "value", "num_atoms", "v_min", "v_max", "num_quantiles", "num_fractions",
    "num_target_fractions", "num_policy_fractions", "loss", "replay", "target_network",
}  # fmt: skip
# What turns options into objects, or counts, checks and prints them; below it they are objects.
READERS = (
    "builders/", "config/conflicts", "config/derived_facts", "session", "cli/commands",
)  # fmt: skip
# Names that options go by.
OPTIONS = {"config", "resolved", "options", "o", "c"}


def test_learner_and_loop_have_no_branch_on_the_algorithm():
    """A new technique is a new object behind a seam; neither file learns its name."""
    for name in ("learning/learner.py", "training/loop.py"):
        assert _branches((PACKAGE / name).read_text()) == [], name


def test_a_branch_on_the_algorithm_is_seen():
    assert _branches("def f(self):\n    if self.munchausen: pass") == ["munchausen"]
    assert _branches("x = 1 if value.name == 'quantile' else 2") == ["quantile"]
    assert _branches("y = x and config.double") == ["double"]
    assert _branches("match kind:\n    case 'noisy': pass") == ["noisy"]
    assert _branches("if isinstance(value, ScalarValue): pass") == ["ScalarValue"]
    assert _branches("isinstance(x, Sequence)") == ["Sequence"]
    assert _branches("isinstance(x, bool | np.ndarray)") == []
    assert _branches("if norm is not None: pass") == []


def _branches(source: str) -> list[str]:
    """Names of techniques, and of type checks, in the conditions of a source."""
    tree = parse(source)
    found = set(_asked_types(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            asked = [node.test]
        elif isinstance(node, ast.comprehension):
            asked = node.ifs
        elif isinstance(node, ast.BoolOp | ast.Compare | ast.match_case):
            asked = [node]
        else:
            asked = []
        found |= {word for each in asked for word in _words(each) if _is_technique(word)}
    return sorted(found)


def _asked_types(tree: ast.AST) -> Iterator[str]:
    """What isinstance() asks for, but for the kinds of plain data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            yield from set(_words(node.args[1])) - {"bool", "np", "bool_", "ndarray"}


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_technique(word: str) -> bool:
    kinds = {"categorical", "quantile", "implicit-quantile", "scalar", "type"}
    named = word.endswith(("Value", "Backup", "Sampler", "Head", "Linear"))
    return named or word in kinds or word in TECHNIQUES - {"value", "loss", "replay"}


def test_options_of_the_techniques_are_read_where_options_become_objects():
    lines = [
        line
        for file in FILES
        if not relative(file).startswith(("bench/", *READERS))
        for line in _reads(relative(file), file.read_text())
    ]
    assert lines == []


def test_a_read_of_an_option_is_seen():
    assert _reads("a.py", "x = config.noisy") == ["a.py reads config.noisy"]
    assert _reads("a.py", "x = self._config.v_min") == ["a.py reads config.v_min"]
    assert _reads("a.py", "x = policy.value.loss(config.batch_size)") == []


def _reads(name: str, source: str) -> list[str]:
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in TECHNIQUES:
            of = node.value
            owner = of.id if isinstance(of, ast.Name) else getattr(of, "attr", "")
            if owner.lstrip("_") in OPTIONS:
                found.append(f"{name} reads {owner.lstrip('_')}.{node.attr}")
    return found
