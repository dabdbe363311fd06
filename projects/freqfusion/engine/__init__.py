"""Training and evaluation of what a configuration describes."""

from freqfusion.engine.checks import preflight
from freqfusion.engine.setup import load_config, setup
from freqfusion.engine.trainer import Trainer

__all__ = ["Trainer", "load_config", "preflight", "setup"]
