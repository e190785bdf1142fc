"""fastdqn report: content of the page, no external resources, and accessibility."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fastdqn.config.last_weights import COLLAPSED
from fastdqn.report.curves import Line, band
from fastdqn.report.statistics import stratified_bootstrap
from fastdqn.report.svg_chart import Series, curves_chart
from helpers import browser
from helpers.command_line import ask
from helpers.report_pages import PHASES, write_run

pytest.importorskip("jinja2")
pytest.importorskip("scipy")

# Elements without an end.
VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Parser: elements as (tag, attributes), and text by its innermost tag."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "elements are nested as they should be"

    def handle_data(self, data):
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(
            " ".join(texts) for tag, texts in self.text.items() if tag not in ("style", "script")
        )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    runs = [write_run(root / f"a{seed}", seed=seed) for seed in (1, 2)]
    return [
        *map(str, runs),
        str(write_run(root / "b", rows=1, summary={"solved": None}, n_steps=3)),
    ]


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory) -> dict[str, Path]:
    """Pages of one run, of three runs of two settings, and of a malicious run."""
    root = tmp_path_factory.mktemp("pages")
    evil = write_run(
        root / "evil", seed=1, preset=HOSTILE, env_kwargs={"a": HOSTILE},
        summary={"exit_reason": HOSTILE, "warnings": [HOSTILE]},
    )  # fmt: skip
    config = json.loads((evil / "config.json").read_text())
    (evil / "config.json").write_text(
        json.dumps({**config, "env_id": HOSTILE + "\ud800", HOSTILE: HOSTILE})
    )
    (evil / "system.json").write_text(
        json.dumps({HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}})
    )
    (evil / "command.txt").write_text(HOSTILE)
    asked = {"one": folders[:1], "several": folders, "evil": [str(evil)]}
    for name, runs in asked.items():
        code, said, err = ask("report", *runs, "--out", str(root / f"{name}.html"))
        assert (code, err) == (0, []), err
        assert said == f"written: {root / name}.html\n"
    return {name: root / f"{name}.html" for name in asked}


@pytest.fixture(params=["one", "several", "evil"])
def page(pages, request) -> Page:
    return Page(pages[request.param])


def test_a_page_has_no_external_resources(page):
    names = {attribute for _, attributes in page.elements for attribute in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"src", "srcset", "action", "data", "xlink:href", "target", "ping"}
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "form"}
    assert page.all("script") == [{}]  # the page's own, without a source
    assert not re.search(r"fetch\(|XMLHttp|import\(|eval\(|innerHTML", page.source)
    places = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for attributes in page.all("a"):
        href = str(attributes["href"])
        assert (href[:1], href[1:] in places) == ("#", True)
    assert [each["href"] for each in page.all("link")] == ["data:,"]
    assert not re.search(r"url\(|@import|http-equiv=.refresh", page.source)
    assert "default-src 'none'" in page.source


def test_a_page_has_landmarks_labels_and_ordered_headings(page):
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("h1", "main", "nav", "header", "footer", "title")] == [
        1
    ] * 6
    assert page.all("html")[0]["lang"] == "en"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a for _, a in page.elements if "aria-labelledby" in a]
    assert {attributes["aria-labelledby"] for attributes in named} <= set(ids)
    assert all(svg["role"] == "img" for svg in page.all("svg"))
    regions = [a for _, a in page.elements if a.get("role") == "region"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    assert all(a.get("scope") for a in page.all("th"))
    assert "<details" in page.source
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}


def test_untrusted_text_is_escaped(pages):
    page = Page(pages["evil"])
    for tag in ("h1", "title", "p", "code", "td", "th"):
        assert any(HOSTILE in text for text in page.text[tag]), tag


def test_a_page_of_a_run_shows_its_result(pages):
    page = Page(pages["one"])
    assert page.text["h1"] == ["CartPole-v1"]
    for said in (
        "31.5", "mean return of 20 greedy episodes, standard deviation 2.5, minimum 27",
        "solved: two evaluations on new seeds reached 30, after 1500 steps, 4.5 s after the",
        "2,000", "fastdqn train cartpole", "pip install fastdqn==0.1.0 torch==2.13.0",
        "environment alone, steps per second", "a processor", "learning_rate", "goal", "50.0%",
        "Q-value of first observations, and actual discounted return",
    ):  # fmt: skip
        assert said in page.words, said
    assert {"learn", "env", "act"} == set(PHASES) == set(page.text["th"]) & set(PHASES)
    marked = [a for tag, a in page.elements if tag == "tr" and a.get("class") == "marked"]
    assert len(marked) == 3  # preset, stop_at_return, run_dir


def test_a_page_of_several_compares_settings_by_mean_and_interval(pages):
    page = Page(pages["several"])
    assert "3 runs of 2 settings" in page.words
    assert "n_steps 1" in page.text["th"]
    assert "n_steps 3" in page.text["th"]
    assert "31.5 [31.5, 31.5]" in page.text["td"]
    assert "2 of 2" in page.text["td"]
    assert "0 of 1" in page.text["td"]
    assert "n_steps" in page.text["th"]  # in the table of what differs


def test_the_page_of_a_run_in_progress_is_in_its_folder(tmp_path):
    folder = write_run(tmp_path / "x", rows=3)
    (folder / "summary.json").unlink()
    (folder / "eval.jsonl").unlink()
    code, said, _ = ask("report", str(folder))
    assert (code, said) == (0, f"written: {folder / 'report.html'}\n")
    words = Page(folder / "report.html").words
    assert "not finished" in words
    assert "no final evaluation" in words


def test_phases_by_both_clocks_are_shown_beside_those_of_the_run(folders, tmp_path):
    rows = [{"part": "header"}] + [
        {"part": "train", "clock": clock, "steps": 10, "phase_seconds": {"learn": 3.0, "env": 1.0}}
        for clock in ("plain", "synchronized", "synchronised")  # the last is of earlier versions
    ]
    (tmp_path / "figures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--bench", str(tmp_path / "figures.jsonl"), "--out", str(tmp_path / "a.html")]
    assert ask("report", folders[0], *words)[0] == 0
    page = Page(tmp_path / "a.html")
    assert "Benchmark of the same settings, synchronized clock" in page.text["h3"]
    assert "75.0%" in page.text["td"]
    meanings = [text.partition(":")[0] for text in page.text["p"]]
    assert meanings.count("True throughput") == 1
    assert meanings.count("Synchronizes the device at the end of each phase") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "a.txt"], "out is 'a.txt': it must end in .html"),
        (["--bench", "nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["--bench", "."], ".: is not a regular file"),
        (["--over", "time"], "unknown option '--over'"),
    ],
)
def test_an_error_of_report_is_one_line(folders, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, out, lines = ask("report", folders[0], *words)
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith(f"error: {says}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_folder_name_is_not_utf8_has_a_page(tmp_path):
    run = write_run(tmp_path / "\udcff", env_kwargs={"\ud800": 1})
    (run / "command.txt").write_bytes(b"fastdqn train cartpole --init-weights \xff\n")
    assert ask("report", str(run))[0] == 0
    words = Page(run / "report.html").words
    assert "fastdqn train cartpole --init-weights '\ufffd'" in words
    assert "?=1" in words


def test_several_runs_need_a_name_for_their_page(folders):
    assert ask("report", *folders)[2] == ["error: a report of several runs needs --out FILE.html"]


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of WCAG 2.2 of two colours such as #1b1f27."""
    bright = []
    for colour in (one, other):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        bright.append(sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    return (max(bright) + 0.05) / (min(bright) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_have_enough_contrast(pages, scheme):
    style = Page(pages["one"]).text["style"][0]
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.S)
    found = colours({"light": light, "dark": dark}[scheme])
    assert len(found) == 7 + 8 + 11
    for ground in ("ground", "card"):
        for words in ("ink", "faint", "link"):
            assert contrast(found[words], found[ground]) >= 4.5, (words, ground)
    assert contrast(found["ink"], found["mark"]) >= 4.5
    lines = {name: contrast(found[name], found["card"]) for name in found if name[0] in "sp"}
    assert {name: ratio for name, ratio in lines.items() if ratio < 3} == {}


@pytest.fixture(scope="module")
def window() -> Iterator[browser.Browser]:
    if not browser.is_there():
        pytest.skip("needs chromium and chromedriver")
    with browser.browser() as found:
        yield found


ACTIVE = """
const e = document.activeElement;
return e === document.body ? null : [e.tagName, e.getAttribute('href') || e.textContent.trim()];
"""


@pytest.mark.parametrize("name", ["one", "several", "evil"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_a_browser_reports_no_error_loads_nothing_and_shows_everything(
    window, pages, name, width, scheme
):
    window.open(pages[name], width, scheme)
    assert window.requests() == [pages[name].as_uri()]
    assert window.log("browser") == []
    wide, ground = window.run(
        "return [document.documentElement.scrollWidth, "
        "getComputedStyle(document.body).backgroundColor]"
    )
    assert wide <= width
    assert ground == {"dark": "rgb(20, 22, 26)", "light": "rgb(244, 245, 247)"}[scheme]


def test_the_keyboard_reaches_and_opens_everything(window, pages):
    window.open(pages["several"])
    links, summaries = [], 0
    window.press("Tab", 9)
    while (active := window.run(ACTIVE)) and len(links) + summaries < 200:
        if active[0] == "A":
            links.append(active[1])
        if active[0] == "SUMMARY":
            summaries += 1
            window.press("Enter", 13)
        window.press("Tab", 9)
    assert links[:2] == ["#main", "#result"]
    assert links[-1] == "#machine"
    opened, all_of_them = window.run(
        "return [document.querySelectorAll('details[open]').length, "
        "document.querySelectorAll('details').length]"
    )
    assert opened == all_of_them == summaries
    window.run("document.querySelector('a.skip').focus()")
    window.press("Enter", 13)
    assert window.run("return document.activeElement.id") == "main"


POINT = """
const svg = document.querySelector('#curves ~ div svg'), box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right, clientY: box.top + 20}));
const tip = document.getElementById('values-at'), shown = [tip.hidden, tip.textContent];
svg.dispatchEvent(new PointerEvent('pointerleave'));
return [...shown, tip.hidden];
"""
SMOOTH = """
const slider = document.querySelector('input[type=range]');
slider.value = VALUE;
slider.dispatchEvent(new Event('input'));
return [...document.querySelectorAll('#curves ~ div path.line')].map((each) => each.outerHTML);
"""


def test_a_browser_shows_values_under_the_pointer(window, pages):
    window.open(pages["one"])
    hidden, text, after = window.run(POINT)
    assert (hidden, after) == (False, True)
    assert re.fullmatch(r"cartpole: (4[12]|42\.\d+|41\.\d+) at (2000|199\d|200\d) steps", text)


def test_a_browser_smooths_curves_and_gives_them_back(window, pages):
    window.open(pages["several"])
    drawn = window.run(SMOOTH.replace("VALUE", "0"))
    smooth = window.run(SMOOTH.replace("VALUE", "0.9"))
    bands = "return getComputedStyle(document.querySelector('path.band')).display"
    assert len(drawn) == len(smooth) > 0
    assert drawn != smooth
    assert window.run(bands) == "none"  # they are those of the raw means
    assert window.run(SMOOTH.replace("VALUE", "0")) == drawn
    assert window.run(bands) == "inline"
    assert window.log("browser") == []


def test_an_interval_is_that_of_a_study(tmp_path):
    means = [3.0, 50.0, 7.5, 21.0, 30.0]
    runs = []
    for seed, mean in enumerate(means):
        summary = {"eval_last": evaluated(mean, 2000)}
        runs.append(str(write_run(tmp_path / str(seed), seed=seed, summary=summary)))
    assert ask("report", *runs, "--out", str(tmp_path / "a.html"))[0] == 0
    found = stratified_bootstrap(np.array(means)[:, None])
    assert found is not None
    text = f"19.5 [{found.low:.4g}, {found.high:.4g}]"
    assert text in Page(tmp_path / "a.html").text["td"]


def evaluated(mean: float, step: int) -> dict[str, float]:
    return {
        "episodes": 20, "mean_return": mean, "std_return": 2.5, "min_return": mean - 4,
        "max_return": mean + 4, "mean_length": 30.0, "cut_episodes": 0, "steps_at_eval": step,
    }  # fmt: skip


def test_a_run_whose_last_weights_collapsed_is_seen(tmp_path):
    summary = {"eval": evaluated(31.5, 1500), "eval_last": evaluated(9.5, 2000)}
    run = write_run(tmp_path / "collapsed", summary=summary | {"warnings": [COLLAPSED]})
    fine = write_run(tmp_path / "fine", seed=2, summary={"eval_last": evaluated(31.0, 2000)})
    out = tmp_path / "one.html"
    assert ask("report", str(run), "--out", str(out))[0] == 0
    page = Page(out)
    assert "9.5" in page.text["p"]
    said = (
        "the mean return is 9.5 with the last weights, and 31.5 with the best: returns fell after "
        "the best evaluation"
    )
    assert f"Warning: {said}" in page.text["p"]
    assert any("selected among all evaluations: 31.5, of step 1500" in t for t in page.text["p"])
    assert ask("report", str(run), str(fine), "--out", str(tmp_path / "two.html"))[0] == 0
    both = Page(tmp_path / "two.html")
    assert both.text["td"].count(said) == 1  # and COLLAPSED, without the returns, does not follow
    assert "marked" in [row.get("class") for row in both.all("tr")]
    # 9.5 and 31 of the last weights, 31.5 and 31.5 of the best.
    assert "20.25 [9.5, 31]" in both.text["td"]
    assert "31.5 [31.5, 31.5]" in both.text["td"]


def test_solved_is_not_a_column_where_no_goal_was_set(tmp_path):
    summary = {"solved": None, "exit_reason": "budget spent"}
    runs = [
        str(write_run(tmp_path / str(seed), seed=seed, stop_at_return=None, summary=summary))
        for seed in (1, 2)
    ]
    assert ask("report", *runs, "--out", str(tmp_path / "a.html"))[0] == 0
    page = Page(tmp_path / "a.html")
    assert "solved" not in page.text["th"]
    assert not any("of 2" in text for text in page.text["td"])


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("/a/fastdqn/__main__.py train cartpole --seed 2 --run-dir 's/a base/seed-2' --resume auto "
         "--quiet", "fastdqn train cartpole --seed 2"),
        ("fastdqn train cartpole --run_dir=x --no-double --quiet --env-kwargs 'a=b c' d=1",
         "fastdqn train cartpole --no-double --env-kwargs 'a=b c' d=1"),
        ("python my.py --run-dir x --quiet", "python my.py --run-dir x --quiet"),
        ("fastdqn train 'cartpole --quiet", "fastdqn train 'cartpole --quiet"),
    ],
)  # fmt: skip
def test_the_command_of_a_run_repeats_it_elsewhere(tmp_path, stored, shown):
    run = write_run(tmp_path / "run")
    (run / "command.txt").write_text(f"{stored}\n")
    assert ask("report", str(run))[0] == 0
    assert shown in Page(run / "report.html").text["code"]


def test_the_version_of_a_checkout_is_not_installed_from_an_index(tmp_path):
    run = write_run(tmp_path / "run")
    system = json.loads((run / "system.json").read_text())
    (run / "system.json").write_text(json.dumps({**system, "fastdqn_source": "/src"}))
    assert ask("report", str(run))[0] == 0
    assert "pip install torch==2.13.0" in Page(run / "report.html").text["code"]


def test_settings_are_compared_by_the_probability_of_improvement_and_keys_of_info(tmp_path):
    runs = []
    for setting, score in ((3, 10.0), (5, 12.0)):
        for seed in (1, 2):
            last = {**evaluated(score + seed, 2000), "mean_is_success": score / 20}
            options = {"n_steps": setting, "seed": seed, "info_keys": ("is_success",)}
            place = tmp_path / f"{setting}-{seed}"
            runs.append(write_run(place, summary={"eval_last": last}, **options))
    assert ask("report", *map(str, runs), "--out", str(tmp_path / "a.html"))[0] == 0
    text = Page(tmp_path / "a.html").text
    # 13 and 14 against 11 and 12: each pair is an improvement.
    assert "P(better than the first)" in text["th"]
    assert "1.00 [1.00, 1.00]" in text["td"]
    assert "0.6 [0.6, 0.6]" in text["td"]
    assert any("An interval that contains 0.5 does not decide" in line for line in text["p"])
    assert ask("report", *map(str, runs[:2]), "--out", str(tmp_path / "b.html"))[0] == 0
    assert "P(better than the first)" not in Page(tmp_path / "b.html").text["th"]


def test_keys_of_info_are_columns_of_the_tables_of_settings_and_of_runs(tmp_path):
    found = {**evaluated(1.0, 2000), "mean_is_success": 0.56, "mean_keys": 8.0}
    summary = {"eval_last": {**found, "mean_keys_episodes": 5}}
    keys = ("is_success", "keys")
    runs = [write_run(tmp_path / name, summary=summary, info_keys=keys, seed=i)
            for i, name in enumerate("ab")]  # fmt: skip
    assert ask("report", *map(str, runs), "--out", str(tmp_path / "a.html"))[0] == 0
    text = Page(tmp_path / "a.html").text
    assert text["th"].count("success rate") == text["th"].count("keys") == 2
    assert text["td"].count("0.56") == text["td"].count("8 over 5 of 20 episodes") == 2


def test_a_table_of_runs_that_end_some_steps_apart_has_intervals_in_all_rows():
    lines = [
        Line(np.array([10.0 + d, 20.0 + d, 30.0 + d, 40.0 + d]), np.array([1.0, 2.0, 3.0, 4.0]) + d)
        for d in (0, 1, 2)
    ]
    early = [Line(each.x[:2], each.y[:2]) for each in lines]
    series = [Series("all", 0, lines, band(lines)), Series("early", 1, early, band(early))]
    chart = curves_chart("a", "a", "steps", series)
    assert chart is not None
    assert [row[0] for row in chart.rows] == ["12", "20", "30", "40"]
    assert all("[" in row[1] for row in chart.rows)
    assert [("[" in row[2], row[2] == "-") for row in chart.rows] == [
        (True, False), (True, False), (False, True), (False, True),
    ]  # fmt: skip


def test_titles_of_charts_are_phrases(pages):
    titles = Page(pages["one"]).text["figcaption"]
    assert titles[:2] == [
        "mean return of greedy evaluations", "mean return of the last 100 training episodes",
    ]  # fmt: skip
    assert "mean Q-value of the actions in a batch" in titles


def test_keys_of_info_have_a_chart_each(tmp_path):
    run = write_run(tmp_path / "run", info_keys=("is_success", "score"))
    rows = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"rollout/success_rate": number / 20, "rollout/score": 3.0 * number}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ask("report", str(run), "--out", str(tmp_path / "a.html"))[0] == 0
    titles = Page(tmp_path / "a.html").text["figcaption"]
    assert "success rate, mean of the last 100 training episodes" in titles
    assert "score, mean of the last 100 training episodes" in titles
