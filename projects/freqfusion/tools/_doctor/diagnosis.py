"""Put all checks in the order in which their remedies should be applied."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from freqfusion.tools._doctor.check import Check
from freqfusion.tools._doctor.check_detectron2 import check_detectron2
from freqfusion.tools._doctor.check_gpu import check_gpu
from freqfusion.tools._doctor.check_packages import (
    check_freqfusion,
    check_package,
    check_python,
    check_tool,
)
from freqfusion.tools._doctor.facts import FIRST, LAST, Facts
from freqfusion.tools._doctor.requirements import Pin, read_pins


def diagnose(facts: Facts) -> list[Check]:
    """Run all checks; none of them can end the report."""
    pins, problem = declared_pins(facts)
    headers = "Python.h" if facts.headers else None
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("Python", partial(check_python, facts)),
        ("freqfusion", partial(check_freqfusion, facts)),
        *((name, partial(check_package, facts, pins, name)) for name in FIRST),
        ("GPU", partial(check_gpu, facts, pins)),
        ("C++ compiler", partial(check_tool, facts, "C++ compiler", facts.compiler, "g++")),
        ("Python headers", partial(check_tool, facts, "Python headers", headers, "python-dev")),
        ("git", partial(check_tool, facts, "git", facts.git, "git")),
        ("detectron2", partial(check_detectron2, facts, pins)),
        *((name, partial(check_package, facts, pins, name)) for name in LAST),
    ]
    return [*problem, *(guarded(name, step) for name, step in steps)]


def declared_pins(facts: Facts) -> tuple[dict[str, Pin], list[Check]]:
    """Read what the installed freqfusion requires; where that fails, a check says why."""
    package = facts.packages.get("freqfusion")
    try:
        return read_pins(package.requires if package else ()), []
    except Exception as error:
        reason = f"the requirements cannot be read: {error!r}"
        return {}, [Check("packaging", "broken", reason=reason, required=True)]


def guarded(name: str, step: Callable[[], Check]) -> Check:
    """Run a check; one that raises is reported instead of ending the report."""
    try:
        return step()
    except Exception as error:
        return Check(name, "broken", reason=f"the check failed: {error!r}", required=True)
