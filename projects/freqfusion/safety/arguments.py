"""Options of the command lines that read files of others."""

from __future__ import annotations

import argparse


def add_unsafe_config(parser: argparse.ArgumentParser) -> None:
    """``--allow-unsafe-config``, for programs that read configurations."""
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let !!python tags in the configuration run code; only for files that you trust",
    )
