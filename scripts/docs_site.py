"""Hook of MkDocs (mkdocs.yml): pages and files of the site that do not lie in docs/.

A link in a document is one between files of the checkout, so that it also works where Markdown is
read there. The site has the content of docs/ at its top, and ``MOUNTED`` at the same paths as the
checkout has.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
MOUNTED = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "configs/**/*.yaml",
    "examples/*",
)
# References as Sphinx writes them in docstrings: a link where the name has a place in the site.
_REFERENCE = re.compile(r":(?:class|func|meth|mod):<code>~?([\w.]+)</code>")
_LITERAL_BLOCK = "::</p>"


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/, and notebooks as pages."""
    for path in (path for pattern in MOUNTED for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for notebook in sorted(ROOT.glob("examples/*.ipynb")):
        for name, content in _pages_of(notebook):
            files.append(File.generated(config, f"examples/{name}", content=content))
    return files


def _pages_of(notebook: Path) -> Iterator[tuple[str, str | bytes]]:
    """Yield a notebook as a page of Markdown, then its images, each with its name."""
    page, images = [], {}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        page.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{notebook.stem}-{number}.png"
                images[name] = base64.b64decode(data["image/png"])
                page.append(f"![What the cell draws]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                page.append(f"```text\n{text.rstrip()}\n```")
    page.append(f"[This page as a notebook]({notebook.name})")
    yield f"{notebook.stem}.md", "\n\n".join(page)
    yield from images.items()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the checkout into links between files of the site."""
    if page.file.abs_src_path is None:  # a notebook
        return _spaced(markdown)
    source = Path(page.file.abs_src_path)
    here = os.path.dirname(page.file.src_uri) or "."

    def in_site(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        target = (source.parent / path).resolve()
        if not path or not target.is_relative_to(ROOT):
            return match[0]
        name = target.relative_to(ROOT).as_posix().removeprefix("docs/")
        name = re.sub(r"\.ipynb$", ".md", name)
        return f"]({os.path.relpath(name, here)}{mark}{anchor})"

    return _spaced(re.sub(r"\]\((?!\w+:)([^)\s]+)\)", in_site, markdown))


def _spaced(markdown: str) -> str:
    """Return the text as Python-Markdown needs it.

    An empty line stands above lists and tables, and what belongs to a point of a list is indented
    by four spaces or more.
    """
    lines: list[str] = []
    in_list = has_paragraphs = False
    for line in markdown.split("\n"):
        before = lines[-1] if lines else ""
        is_point = bool(re.match(r"\* |\d+\. ", line))
        if before and (
            (line.startswith("|") and not before.startswith("|"))
            or (is_point and (has_paragraphs or not in_list))
        ):
            lines.append("")
        in_list = is_point or (in_list and (not line or line.startswith(" ")))
        has_paragraphs = in_list and not is_point and (has_paragraphs or not line)
        lines.append(f"  {line}" if in_list and line.startswith("  ") else line)
    return "\n".join(lines)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Mend what docstrings have of reStructuredText; a number stays with its deviation."""

    def link(match: re.Match[str]) -> str:
        short = match[1].rpartition(".")[2]
        return f'<autoref optional identifier="{match[1]}"><code>{short}</code></autoref>'

    html = _REFERENCE.sub(link, html).replace(_LITERAL_BLOCK, ":</p>")
    return html.replace(" ± ", "&nbsp;±&nbsp;")
