#!/usr/bin/env python
"""Train or evaluate what a configuration describes; the command line is Detectron2's.

python train_net.py --config-file configs/<dataset>/<task>-segmentation/<name>.yaml [KEY VALUE ...]
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS <checkpoint>

What is wrong with the configuration or the data is told in a sentence (exit code 2).
"""

from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException

from freqfusion.engine.command_line import USER_ERROR, argument_parser, explain_errors, run
from freqfusion.engine.setup import check


def main(arguments=None):
    """Check, then run in every process; returns the exit code."""
    options = argument_parser(__doc__).parse_args(arguments)
    with explain_errors(debug=options.debug):
        check(options)
    try:
        launch(
            run,
            options.num_gpus,
            num_machines=options.num_machines,
            machine_rank=options.machine_rank,
            dist_url=options.dist_url,
            args=(options,),
        )
    except ProcessExitedException as error:
        if error.exit_code != USER_ERROR:
            raise
        return USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
