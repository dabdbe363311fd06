"""Stands in for ``python -m venv``: a folder with ``fake_python.py`` as its interpreter."""

import json
import sys
from pathlib import Path

place = Path(sys.argv[1])
(place / "bin").mkdir(parents=True)
(place / "pyvenv.cfg").touch()
(place / "bin" / "installed.json").write_text(json.dumps({"names": []}), encoding="utf-8")
program = (Path(__file__).parent / "fake_python.py").read_text(encoding="utf-8")
python = place / "bin" / "python"
python.write_text(f"#!{sys.executable} -S\n{program}", encoding="utf-8")
python.chmod(0o755)
