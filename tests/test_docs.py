"""What the documents show works: code blocks run, linked files and named commands exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path.name for path in ROOT.glob("*.md"))


def blocks(name, language):
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


SNIPPETS = [
    pytest.param(code, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, code in enumerate(blocks(name, "python"))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code):
    if code.startswith("# needs detectron2"):
        pytest.importorskip("detectron2", reason="the snippet needs detectron2")
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_usage_shows_the_three_places():
    assert len(blocks("USAGE.md", "python")) >= 3
    text = (ROOT / "USAGE.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (Feature pyramid|Segmentation head|U-Net)", text, re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_tools_and_targets_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for tool in re.findall(r"python -m (freqfusion[\w.]+[\w])", text):
        assert importlib.util.find_spec(tool), tool
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets
