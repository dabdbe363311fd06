"""Rules between the keys of a configuration, and names that are like a wrong one.

The rules look at nothing but the configuration. What needs the registered models or the data sets
is checked by ``freqfusion.engine.preflight``.
"""

from collections.abc import Callable, Iterator

from detectron2.config import CfgNode

from freqfusion.config_check import model_rules, run_rules
from freqfusion.config_check.names import did_you_mean, nearest

__all__ = ["check_config", "config_warnings", "did_you_mean", "nearest"]


def check_config(cfg: CfgNode, world_size: int = 1) -> list[str]:
    """What cannot work, one sentence each that says what to change; empty where all is well.

    Args:
        cfg: A configuration with this project's keys.
        world_size: Number of processes that will train.
    """
    rules: tuple[Callable[[CfgNode], Iterator[str]], ...] = (
        model_rules.resnet_rules,
        model_rules.pyramid_rules,
        model_rules.anchor_rules,
        model_rules.fusion_rules,
        model_rules.model_rules,
        model_rules.mask2former_rules,
        run_rules.input_rules,
        run_rules.loader_rules,
        run_rules.test_rules,
        run_rules.solver_rules,
        run_rules.health_rules,
    )
    problems = [problem for rule in rules for problem in rule(cfg)]
    return [*problems, *run_rules.batch_rules(cfg, world_size)]


def config_warnings(cfg: CfgNode) -> list[str]:
    """What works but is seldom meant, one sentence each."""
    return [*model_rules.weight_warnings(cfg), *run_rules.schedule_warnings(cfg)]
