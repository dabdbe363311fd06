"""Say what is in a checkpoint: ``python -m freqfusion.tools.inspect_checkpoint FILE``.

Format, tensors by the beginnings of their names, what is beside them (iteration, optimizer, ...),
what the file would import, and whether it is read without running code. Nothing of the file is run,
and no numbers are read but for the checksum.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqfusion.safety import outline_checkpoint
from freqfusion.tools._arguments import number_from
from freqfusion.tools._inspect_checkpoint.contents import as_json, contents_of, matching
from freqfusion.tools._inspect_checkpoint.report import render, render_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at one file; returns 0, or 1 for one that is refused, or 2 where there is none."""
    options = _parser().parse_args(arguments)
    path: Path = options.file
    try:
        outline = outline_checkpoint(path)
        contents = contents_of(outline)
        about: dict[str, Any] = {
            "file": str(path),
            "format": outline.format,
            "bytes": path.stat().st_size,
            "sha256": None if options.no_sha256 else _sha256(path),
            "problem": None if outline.problem is None else str(outline.problem),
            **as_json(contents, options.depth),
        }
    except (ValueError, OSError) as error:
        print(f"inspect_checkpoint: {error}", file=sys.stderr)
        return 2
    rows = None if options.names is None else matching(contents.tensors, options.names)
    if options.json:
        listed = {} if rows is None else {"names": {row.name: _plain(row) for row in rows}}
        print(json.dumps(about | listed, indent=1))
    else:
        print(render(about) if rows is None else render_names(rows))
    return 1 if outline.problem else 0


def _plain(row: Any) -> dict[str, Any]:
    return {"shape": row.shape, "dtype": row.dtype, "bytes": row.bytes}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.inspect_checkpoint",
        description="Say what is in a checkpoint, without loading it or running what it says.",
        epilog="exit code: 0, or 1 for a file that would be refused, 2 where there is none",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="*.pth, *.pt, *.pkl, *.safetensors")
    add("--json", action="store_true", help="print JSON")
    add("--names", metavar="PATTERN", help="list tensors: a part of their names, or with * and ?")
    add("--depth", type=number_from(1), default=2, metavar="N", help="parts of names to sum up by")
    add("--no-sha256", action="store_true", help="leave out the checksum, which reads all bytes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
