"""Stands in for an environment's interpreter: answers the installer and downloads nothing.

It lies at ``<environment>/bin/python`` beside ``installed.json``, a list of package names. What pip
shall fail at is read from the file named by ``FAKE_PIP``: a mapping from a word of the command to
the output of the failure. Every pip command is added to the file named by ``FAKE_LOG``.
"""

import json
import os
import sys
from pathlib import Path

PLACE = Path(sys.argv[0]).parent / "installed.json"
CURRENT = list(sys.version_info[:3])


def inspect() -> None:
    state = json.loads(PLACE.read_text(encoding="utf-8"))
    answer = {"python": state.get("python", CURRENT), "venv": True, "pip": True}
    for name, version in (("torch", "2.15.0"), ("detectron2", "0.6"), ("freqfusion", "0.1.0")):
        answer[name] = version if name in state["names"] else None
    print(json.dumps(answer))


def install(arguments: list[str]) -> int:
    line = " ".join(arguments)
    with Path(os.environ["FAKE_LOG"]).open("a", encoding="utf-8") as log:
        log.write(line + "\n")
    failures = json.loads(Path(os.environ["FAKE_PIP"]).read_text(encoding="utf-8"))
    for word, output in failures.items():
        if word in line:
            print(output)
            return 1
    state = json.loads(PLACE.read_text(encoding="utf-8"))
    signs = {"torch": "torch>=", "detectron2": "detectron2", "freqfusion": "-e "}
    state["names"] += [name for name, sign in signs.items() if sign in line]
    PLACE.write_text(json.dumps(state), encoding="utf-8")
    return 0


def main() -> int:
    if sys.argv[1] == "-m":
        return install(sys.argv[3:])
    if sys.argv[1] == "-I":
        inspect()
    return 0


sys.exit(main())
