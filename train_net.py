#!/usr/bin/env python
"""Train or evaluate what a configuration describes; the command line is Detectron2's.

python train_net.py --config-file configs/<dataset>/<task>-segmentation/<name>.yaml [KEY VALUE ...]
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS <checkpoint>
"""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import default_argument_parser, launch

from freqfusion.engine import Trainer, setup


def main(arguments):
    """Run in every process."""
    cfg = setup(arguments)
    if arguments.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=arguments.resume
        )
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=arguments.resume)
    return trainer.train()


if __name__ == "__main__":
    options = default_argument_parser(epilog=__doc__).parse_args()
    launch(
        main,
        options.num_gpus,
        num_machines=options.num_machines,
        machine_rank=options.machine_rank,
        dist_url=options.dist_url,
        args=(options,),
    )
