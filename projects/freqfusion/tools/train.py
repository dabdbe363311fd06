"""Train or evaluate what a configuration describes; the command line is Detectron2's.

freqfusion-train --config-file <dataset>/<task>-segmentation/<name> [KEY VALUE ...]
freqfusion-train --config-file my_own.yaml --eval-only MODEL.WEIGHTS <checkpoint>
freqfusion-train --num-gpus 8 --config-file ...        (or --num-processes 4, on a CPU)
torchrun --nproc-per-node 8 -m freqfusion.tools.train --config-file ...
(with SLURM: srun torchrun ..., see docs/training.md)

``train_net.py`` of a checkout is the same command. What is wrong with the configuration or the data
is told in a sentence (exit code 2).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from freqfusion.messages import hide_deprecations


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, then run in every process; return the exit code."""
    if importlib.util.find_spec("detectron2") is None:
        print("train: Detectron2 is not installed; freqfusion-doctor says how", file=sys.stderr)
        return 2
    hide_deprecations(arguments)
    from freqfusion.engine import command_line

    return command_line.main(command_line.argument_parser(__doc__).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
