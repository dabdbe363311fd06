"""Look through a model's eyes: ``python -m freqfusion.tools.app --config-file X --weights W``.

Serves a page on this machine. Drop an image on it, or take a painted one, and see what the model
predicts and how sure it is, which places its features take for alike, the spectra of the features
before and after fusion, and with Spatial Frequency Modulation the attention and the sampling
lattices. Images stay in memory; the page asks nobody else for anything.
"""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from freqfusion.files import add_unsafe_config
from freqfusion.tools._app.server import ViewerServer
from freqfusion.tools._app.uploads import Limits
from freqfusion.tools._app.viewer import Viewer
from freqfusion.tools._arguments import number_from, unit_score
from freqfusion.tools._model import Predictor, check_weights, metadata_of, read_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        server = make_server(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"app: {error}", file=sys.stderr)
        return 2
    if not _is_local(options.host):
        print(
            f"app: listening at {options.host}: whoever can reach this machine there can use the"
            " model and read what passes by, unencrypted; only do so in a network that you trust",
            file=sys.stderr,
        )
    print(f"open {server.url} in a browser; end with Ctrl-C", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return 0


def make_server(options: argparse.Namespace) -> ViewerServer:
    """Load the model and listen.

    Raises:
        ValueError: if the configuration or the weights cannot be read.
        OSError: if the address cannot be had.
    """
    limits = Limits(options.max_megabytes * 10**6, options.max_megapixels * 10**6)
    cfg = read_config(
        options.config_file,
        options.weights or None,
        options.opts,
        unsafe=options.allow_unsafe_config,
    )
    check_weights(cfg.MODEL.WEIGHTS)
    viewer = Viewer(Predictor(cfg), metadata_of(cfg), score_threshold=options.score_threshold)
    names = [options.host, *options.allow_host]
    address = (options.host, options.port)
    try:
        return ViewerServer(viewer, Path(options.config_file).stem, address, limits, names=names)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"cannot listen at {options.host}, port {options.port}: {error}; --port 0 takes any"
            " free one"
        ) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.app",
        description="Look at what a model makes of images, in a browser.",
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the model's configuration (YAML)")
    add_unsafe_config(parser)
    add("--weights", metavar="FILE", help="checkpoint; not given: MODEL.WEIGHTS")
    add("--host", default="127.0.0.1", help="address to listen at; 127.0.0.1, this machine only")
    add("--port", type=number_from(0), default=0, metavar="N", help="0, any free one")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine that browsers call it by",
    )
    add("--max-megabytes", type=number_from(1), default=20, metavar="N", help="of an image; 20")
    add("--max-megapixels", type=number_from(1), default=25, metavar="N", help="of an image; 25")
    add("--score-threshold", type=unit_score, default=0.5, metavar="S", help="of instances; 0.5")
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
