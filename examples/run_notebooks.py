"""Run the notebooks of this folder and store their outputs; ``python examples/run_notebooks.py``.

Figures of cells whose metadata has ``figure: NAME`` are written to docs/NAME.png too: those of the
page "How it works". Needs the extras docs and, for fine-tuning, detectron2 and pretrained.
"""

import base64
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
DOCS = FOLDER.parent / "docs"


def run(path, folder, timeout=600):
    """Return a notebook after it has run in a folder, without warnings; errors are raised."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, resources=resources, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def figures(notebook):
    """Yield the name and the PNG of each figure that a document shows."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "figure" in cell.metadata and "image/png" in output.get("data", {}):
                yield cell.metadata["figure"], base64.b64decode(output["data"]["image/png"])


def main(names):
    """Run the named notebooks, or all of them, in an empty folder each."""
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(path, folder)
        nbformat.write(notebook, path)
        for name, png in figures(notebook):
            (DOCS / f"{name}.png").write_bytes(png)
        size = path.stat().st_size / 1024
        print(f"{path.name}: {time.perf_counter() - begin:.0f} s, {size:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
