#!/usr/bin/env python
"""Train or evaluate: ``python train_net.py --config-file FILE [KEY VALUE ...]``, see ``--help``."""

from freqfusion.tools.train import main

if __name__ == "__main__":
    raise SystemExit(main())
