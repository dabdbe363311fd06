"""Training and evaluation of what a configuration describes."""

from freqfusion.engine.setup import setup
from freqfusion.engine.trainer import Trainer

__all__ = ["Trainer", "setup"]
