#!/usr/bin/env python
"""Train or evaluate what a configuration describes; the command line is Detectron2's.

python train_net.py --config-file configs/<dataset>/<task>-segmentation/<name>.yaml [KEY VALUE ...]
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS <checkpoint>
python train_net.py --num-gpus 8 --config-file ...        (or --num-processes 4, on a CPU)
torchrun --nproc-per-node 8 train_net.py --config-file ...
(with SLURM: srun torchrun ..., see USAGE.md)

What is wrong with the configuration or the data is told in a sentence (exit code 2).
"""

from freqfusion.engine import command_line


def main(arguments=None):
    """Check, then run in every process; returns the exit code."""
    return command_line.main(command_line.argument_parser(__doc__).parse_args(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
