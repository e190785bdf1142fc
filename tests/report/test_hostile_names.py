"""Untrusted names in figures and pages: valid files of normal size, without warnings.

FASTDQN_FUZZ_NAMES=50 sets how many names are tried beside those written here.
"""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastdqn.report.seed_groups import shortened
from helpers.command_line import ask
from helpers.report_pages import PHASES, write_run

pytest.importorskip("jinja2")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

EXAMPLES = int(os.environ.get("FASTDQN_FUZZ_NAMES", "2"))
NAMES = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(categories=["Cc", "Cs", "Zl", "Zp", "Cf", "Mn"]), max_size=12),
    st.builds(lambda word, times: word * times, st.sampled_from(["a", "ab ", "$x^2$_"]),
              st.integers(100, 1_000)),
)  # fmt: skip


def hostile_run(folder: Path, name: str, phases: int = 1, **options) -> Path:
    """Writes a run with this name as environment, preset, seed, phase and version."""
    run = write_run(folder, env_id=name, preset=name, **options)
    shares = {f"{name}{i}": 0.1 for i in range(phases)} | {"learn": 0.1}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for each in PHASES:
            del row[f"time/share/{each}"]
        row.update({f"time/share/{each}": share for each, share in shares.items()})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = json.loads((run / "config.json").read_text()) | {"seed": name}
    (run / "config.json").write_text(json.dumps(config))
    system = {"processor": name, "device": name, "packages": {name: name}}
    (run / "system.json").write_text(json.dumps(system))
    return run


class Strict(HTMLParser):
    """Parser that checks that elements are nested."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "link", "br", "img", "input", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@settings(max_examples=EXAMPLES, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(name=NAMES)
@example(name="\x00\x08\x1b[31m\ud800\ufffe")
@example(name="W" * 800)
@example(name="word " * 200)
def test_a_figure_and_a_page_with_any_name_parse(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("hostile")
    run = hostile_run(folder / "run", name)
    picture, page = folder / "a.svg", folder / "a.html"
    assert ask("plot", str(run), "--out", str(picture)) == (0, f"written: {picture}\n", [])
    xml.etree.ElementTree.fromstring(picture.read_bytes())
    assert ask("report", str(run), "--out", str(page)) == (0, f"written: {page}\n", [])
    source = page.read_text(encoding="utf-8")
    assert all(c.isprintable() or c in "\n\t" for c in source)
    parser = Strict()
    parser.feed(source)
    parser.close()
    assert parser.open == []


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_the_curves(tmp_path):
    runs = [
        str(hostile_run(tmp_path / str(i), "W" * 500, phases=60, gamma=0.9 + i / 100))
        for i in range(3)
    ]
    out = tmp_path / "a.png"
    assert ask("plot", *runs, "--out", str(out)) == (0, f"written: {out}\n", [])


@pytest.mark.parametrize(("text", "short"), [("abc", "abc"), ("a" * 8 + "b" * 8, "aaaa...bbb")])
def test_a_long_name_keeps_its_ends(text, short):
    assert shortened(text, 10) == short
    assert len(shortened("x" * 1_000, 40)) == 40


def test_untrusted_action_names_are_drawn_on_one_line():
    pytest.importorskip("PIL")
    from fastdqn.report.video_frame import Panel

    panel = Panel(["up\ndown", "\x00\u202e\ud800" * 300])
    screen, values = np.zeros((60, 60, 3), np.uint8), np.zeros(2)
    plain = Panel(["up?down", "???" * 300]).draw(screen, values, 0, ["a?b"])
    np.testing.assert_array_equal(panel.draw(screen, values, 0, ["a\nb"]), plain)


@pytest.mark.slow
def test_a_matplotlibrc_in_the_working_directory_is_ignored(tmp_path):
    run = write_run(tmp_path / "run")
    for name, settings_ in (("plain", ""), ("odd", "lines.linewidth: 40\nfont.size: 30\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(settings_)
        words = ["plot", str(run), "--out", "a.png", "--curves", "loss"]
        code = f"from fastdqn.cli.main import main; raise SystemExit(main({words!r}))"
        assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0
    assert (tmp_path / "plain" / "a.png").read_bytes() == (tmp_path / "odd" / "a.png").read_bytes()
