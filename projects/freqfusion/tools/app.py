"""Inspect a model in a browser: ``python -m freqfusion.tools.app --config-file X --weights W``.

Serves a page on this machine. Drop an image on it, or take one of the examples, and see what the
model predicts and how confident it is, how similar the features of every point are to those of the
point that you click, the spectra of the features before and after fusion, and with Spatial
Frequency Modulation the attention and the sampling lattices. Needs gradio and no network.
"""

import argparse
import functools
import html
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from freqfusion.data.synthetic import make_scene
from freqfusion.drawing import Picture, draw_image
from freqfusion.predictor import check_weights, read_config
from freqfusion.tools._arguments import model_parser, number_from, parse, unit_score
from freqfusion.tools._images import from_files
from freqfusion.tools._viewer import (
    CLICKABLE,
    LOWEST_SCORE,
    PANELS,
    ViewedImage,
    Viewer,
    read_upload,
)

logger = logging.getLogger(__name__)

# Read by gradio when it is imported: it reports nothing, and the browser keeps no history.
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
NUM_EXAMPLES = 4
MAX_PIXELS = 25_000_000
# Images in memory, one for each open page.
_NUM_KEPT_IMAGES = 4
_STYLE = """
.panels { display: grid !important; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); }
.below { font-size: 0.85rem; color: var(--body-text-color-subdued); }
.below .scale { display: flex; align-items: center; gap: 8px; }
.below .scale i { flex: 1; height: 8px; border-radius: 4px;
  background: linear-gradient(to right,
    #440154, #46327e, #365c8d, #277f8e, #1fa187, #4ac16d, #a0da39, #fde725); }
.below .entry { display: inline-flex; align-items: center; gap: 5px; margin-right: 12px; }
.below .entry i { width: 11px; height: 11px; border-radius: 3px; }
"""


def build_page(
    viewer: Viewer, title: str, threshold: float = 0.5, examples: Sequence[Picture] = ()
) -> Any:
    """Return the page as gradio blocks; its events go through the model one at a time.

    Args:
        viewer: Of the model.
        title: Of the page.
        threshold: Scores of objects that are drawn, at first.
        examples: Images to begin with; none: painted scenes.
    """
    import gradio as gr

    examples = examples or [
        make_scene(0, index, (256, 320), detail="simple").image for index in range(NUM_EXAMPLES)
    ]

    def draw(panels: Sequence[str], viewed: ViewedImage | None, *choice: Any) -> list[Any]:
        if viewed is None:
            raise ValueError("there is no image in memory; choose one")
        return [value for name in panels for value in viewer.draw(name, viewed, *choice)]

    def begin(image: Picture, task: str, layer: str, *look: float) -> list[Any]:
        viewed, point = viewer.view(image), (0.5, 0.5)
        tasks = viewed.content.tasks()
        task = task if task in tasks else tasks[-1]
        choices = gr.Radio(tasks, value=task, visible=len(tasks) > 1)
        return [viewed, point, choices, *draw(viewer.panels, viewed, task, layer, point, *look)]

    def upload(path: str, *choice: Any) -> list[Any]:
        return begin(read_upload(path, MAX_PIXELS), *choice)

    # gradio counts arguments, and gives the event to one that is annotated.
    def example(
        event: gr.SelectData, task: str, layer: str, threshold: float, opacity: float
    ) -> list[Any]:
        return begin(examples[event.index], task, layer, threshold, opacity)

    def click(
        event: gr.SelectData,
        viewed: ViewedImage | None,
        task: str,
        layer: str,
        threshold: float,
        opacity: float,
    ) -> list[Any]:
        height, width = draw_image(viewed.image).shape[:2] if viewed else (1, 1)
        point = (event.index[0] + 0.5) / width, (event.index[1] + 0.5) / height
        return [point, *draw(clickable, viewed, task, layer, point, threshold, opacity)]

    def change(*choice: Any) -> list[Any]:
        return draw(chosen, *choice)

    def restyle(*choice: Any) -> list[Any]:
        return draw(predicted, *choice)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        viewed, point = gr.State(time_to_live=3600), gr.State((0.5, 0.5))
        gr.HTML(f"<h1>{html.escape(title)}</h1>")
        with gr.Row():
            # Not an Image: that would decode whatever is sent before its size is checked.
            file = gr.File(label="Drop an image here", height=150, file_types=["image"])
            options: dict[str, Any] = {"allow_preview": False, "interactive": False, "scale": 2}
            label = "or take an example"
            gallery = gr.Gallery(
                list(examples), label=label, columns=NUM_EXAMPLES, height=150, **options
            )
        with gr.Row():
            task = gr.Radio([], label="Task", visible=False)
            info = "or any module, such as backbone.res3 or NAME:PART"
            options = {"allow_custom_value": True, "label": "Layer", "info": info}
            layer = gr.Dropdown(viewer.layers, value=viewer.first_layer, **options)
            options = {"minimum": LOWEST_SCORE, "maximum": 1, "step": 0.05}
            shown = gr.Slider(value=threshold, label="Lowest score of objects", **options)
            opacity = gr.Slider(0, 1, value=1, step=0.05, label="Opacity")
        panels: dict[str, tuple[Any, Any]] = {}
        wide = [name for name in ("lattice", "attention") if name in viewer.panels]

        def add_panel(name: str) -> None:
            buttons = ["download", "fullscreen"]
            image = gr.Image(
                label=PANELS[name][0], interactive=False, format="png", buttons=buttons
            )
            panels[name] = image, gr.HTML()

        with gr.Row(elem_classes="panels"):
            for name in viewer.panels[: len(viewer.panels) - len(wide)]:
                with gr.Column(min_width=340):
                    add_panel(name)
        for name in wide:
            add_panel(name)
        clickable = [name for name in CLICKABLE if name in panels]
        chosen = [name for name in panels if name not in ("image", *wide)]
        predicted = [name for name in ("prediction", "baseline") if name in panels]

        def parts(names: Sequence[str]) -> list[Any]:
            return [one for name in names for one in panels[name]]

        # One group: whichever event it is, the model runs for one at a time.
        group = {
            "concurrency_id": "model",
            "trigger_mode": "always_last",
            "show_progress": "minimal",
            "show_progress_on": panels["image"][0],
        }
        everything = [viewed, point, task, *parts(viewer.panels)]
        look = [shown, opacity]
        file.upload(_answered(upload), [file, task, layer, *look], everything, **group)
        gallery.select(_answered(example), [task, layer, *look], everything, **group)
        marked = [point, *parts(clickable)]
        for name in clickable:
            panels[name][0].select(_answered(click), [viewed, task, layer, *look], marked, **group)
        everything_chosen = [viewed, task, layer, point, *look]
        for choice in (task, layer):
            choice.input(_answered(change), everything_chosen, parts(chosen), **group)
        for slider in look:
            slider.release(_answered(restyle), everything_chosen, parts(predicted), **group)
    page.queue(default_concurrency_limit=1, api_open=False, max_size=16)
    return page


def launch(page: Any, options: argparse.Namespace) -> str:
    """Serve the page in threads of its own and return its address.

    Raises:
        OSError: if the address cannot be had.
    """
    import gradio as gr

    try:
        page.launch(
            server_name=options.host,
            server_port=options.port or None,
            max_file_size="20mb",
            state_session_capacity=_NUM_KEPT_IMAGES,
            share=False,
            ssr_mode=False,
            footer_links=[],
            css=_STYLE,
            # Named fonts only, so that none is asked for elsewhere.
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen at {options.host}, port {options.port}: {error}") from error
    return str(page.local_url)


def _answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the event handler with errors shown on the page, so that the server goes on."""
    import gradio as gr

    @functools.wraps(function)
    def answered(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ValueError as error:
            said = str(error)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            said = "there is not enough memory for this image"
        except Exception:
            logger.exception("the viewer failed")
            said = "the model failed on this image; the terminal says more"
        raise gr.Error(html.escape(said), print_exception=False)

    return answered


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit code: 0, or 2 for what the user can fix."""
    options = parse(_parser(), arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="freqfusion-") as folder:
            os.environ.update(OFFLINE, GRADIO_TEMP_DIR=folder)
            page = make_page(options)
            print(f"open {launch(page, options)} in a browser; end with Ctrl-C", flush=True)
            if options.host not in ("127.0.0.1", "localhost", "::1"):
                print(
                    f"app: listening at {options.host}: whoever can reach this machine there can"
                    " use the model and read what passes by, unencrypted; only do so in a network"
                    " that you trust",
                    file=sys.stderr,
                )
            page.block_thread()
    except (ValueError, OSError, KeyError, RuntimeError, ImportError) as error:
        print(f"app: {error}", file=sys.stderr)
        return 2
    return 0


def make_page(options: argparse.Namespace) -> Any:
    """Load the model and build its page.

    Raises:
        ValueError: if the configuration or the weights cannot be read.
        ImportError: if gradio is not installed.
    """
    unsafe = options.allow_unsafe_config
    cfg = read_config(options.config_file, options.weights or None, options.opts, unsafe=unsafe)
    check_weights(cfg.MODEL.WEIGHTS)
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("the page needs gradio: pip install 'gradio>=6.31'")
    other, title = None, Path(options.config_file).stem
    if options.compare:
        config, weights = options.compare
        other = read_config(config, weights, options.opts, unsafe=unsafe)
        check_weights(other.MODEL.WEIGHTS)
        title += f", compared with {Path(config).stem}"
    examples: list[Picture] = []
    if options.examples is not None:
        sources = from_files([str(options.examples)], NUM_EXAMPLES)
        examples = [read_upload(str(source.path), MAX_PIXELS) for source in sources]
    viewer = Viewer(cfg, baseline=other)
    return build_page(viewer, title, options.score_threshold, examples)


def _parser() -> argparse.ArgumentParser:
    parser = model_parser("app", "Look at what a model makes of images, in a browser.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at; 127.0.0.1, this machine only")
    add("--port", type=number_from(0), default=0, metavar="N", help="0, the first free from 7860")
    add("--score-threshold", type=unit_score, default=0.5, metavar="S", help="of instances; 0.5")
    folder = "folder of images, of which the first four are examples; not given: painted scenes"
    add("--examples", type=Path, metavar="DIR", help=folder)
    pair, other = ("CONFIG", "WEIGHTS"), "a model whose prediction is shown beside"
    add("--compare", nargs=2, metavar=pair, help=other)
    return parser


if __name__ == "__main__":
    sys.exit(main())
