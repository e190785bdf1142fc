"""The API reference: pdoc renders every public name without a warning."""

import os
import re
import subprocess
import sys

import pytest

import fastdqn
from helpers.docs_pages import README, ROOT, shell_lines


@pytest.mark.slow
def test_the_api_reference_has_every_public_name_and_nothing_else(tmp_path):
    pytest.importorskip("pdoc")
    result = subprocess.run(
        [sys.executable, "-W", "error", ROOT / ".ci" / "api", tmp_path / "api"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout + result.stderr == ""
    page = (tmp_path / "api" / "fastdqn.html").read_text()
    assert set(fastdqn.__all__) <= set(re.findall(r'<section id="(\w+)">', page))
    pages = {path.stem for path in (tmp_path / "api").glob("*.html")}
    assert pages == {"fastdqn", "index"}


def test_the_readme_names_its_command():
    assert any(line.endswith(".ci/api") for line in shell_lines(README))
