"""Whether numbers stay finite, gradients of a sensible size, and steps coming."""

from freqfusion.engine.health.dump import Dump, read_dump
from freqfusion.engine.health.examination import Finding, examine
from freqfusion.engine.health.guard import POLICIES, Guard
from freqfusion.engine.health.rates import Rates
from freqfusion.engine.health.watchdog import Watchdog

__all__ = [
    "POLICIES",
    "Dump",
    "Finding",
    "Guard",
    "Rates",
    "Watchdog",
    "examine",
    "read_dump",
]
