"""Say what is installed, what is missing or does not fit, and which command mends it.

``python -m freqfusion.tools.doctor [--json]``; the exit status is 0 where everything that is
required is fine. detectron2 is required only where ``FREQFUSION_REQUIRE_DETECTRON2=1`` is set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from freqfusion.tools._doctor.check import Check
from freqfusion.tools._doctor.diagnosis import diagnose
from freqfusion.tools._doctor.facts import Facts, gather


def all_well(checks: Sequence[Check]) -> bool:
    """Say whether everything that is required is fine."""
    return all(check.status == "ok" for check in checks if check.required)


def remedies(checks: Sequence[Check]) -> list[str]:
    """List the commands that mend what is wrong, each once and in order."""
    return list(dict.fromkeys(check.remedy for check in checks if check.remedy))


def render(facts: Facts, checks: Sequence[Check]) -> str:
    """Return the report as text."""
    width = max(len(check.name) for check in checks)
    lines = [facts.system]
    for check in checks:
        status = "optional" if check.optional else check.status
        reason = f"({check.reason})" if check.reason else ""
        words = " ".join(word for word in (check.found, reason) if word)
        lines.append(f"{status:<9} {check.name:<{width}}  {words}".rstrip())
    extras = [check for check in checks if check.optional]
    wrong = [check for check in checks if check.status != "ok" and not check.optional]
    mend = remedies(wrong)
    add = [command for command in remedies(extras) if command not in mend]
    for title, commands in (("To mend it:", mend), ("To add what is optional:", add)):
        if commands:
            lines += ["", title, *(f"  {command}" for command in commands)]
    return "\n".join([*lines, "", verdict(checks, wrong)])


def verdict(checks: Sequence[Check], wrong: Sequence[Check]) -> str:
    """Return the last line of the report."""
    if not all_well(checks):
        return "Something that is required is missing or does not fit."
    if wrong:
        return "Everything that is required is fine; something that is optional does not fit."
    return "Everything that is required is fine."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.doctor",
        description="Check the installation and print the commands that mend it.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    facts = gather()
    checks = diagnose(facts)
    if options.json:
        report = {
            "ok": all_well(checks),
            "system": facts.system,
            "executable": facts.executable,
            "checks": [asdict(check) for check in checks],
        }
        print(json.dumps(report, indent=2))
    else:
        print(render(facts, checks))
    return 0 if all_well(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
