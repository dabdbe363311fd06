"""The page of the viewer: one document that asks nobody but its server for anything."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from freqfusion.tools._app.page_script import SCRIPT
from freqfusion.tools._app.page_style import STYLE
from freqfusion.tools._page import BASE_STYLE, THEME_SCRIPT

# By kind: the heading, what it shows, and whether places of it are those of the image.
PANELS = {
    "image": (
        "Image",
        "Click a place, here or in any map; arrow keys move the mark.",
        True,
    ),
    "prediction": ("Prediction", "", True),
    "confidence": ("Confidence", "", True),
    "similarity": ("Similarity", "of every place's features to those under the mark", True),
    "before": ("Similarity before fusion", "of the coarse map", True),
    "spectrum": ("Spectrum", "of the features before and after fusion", False),
    "lattice": ("Sampling lattice", "where the model looks closely", False),
    "attention": ("Attention", "what is stretched before each downsampling", False),
}
_SCRIPT = SCRIPT + THEME_SCRIPT
_STYLE = BASE_STYLE + STYLE


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


# Nothing may run, be drawn or be asked for but what this page is made of.
CONTENT_POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)};"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def render_page(title: str, token: str, layers: Sequence[str], chosen: str, max_bytes: int) -> str:
    """The whole page; ``chosen`` is the layer that is looked at first."""
    said = html.escape(title, quote=True)
    options = "".join(
        f'<option value="{html.escape(layer, quote=True)}"{" selected" * (layer == chosen)}>'
        f"{html.escape(layer)}</option>"
        for layer in layers
    )
    panels = "\n".join(_panel(kind) for kind in PANELS)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="token" content="{html.escape(token, quote=True)}">
<meta name="max-bytes" content="{max_bytes}">
<title>{said}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<div class="head"><h1>{said}</h1>
<button id="theme" type="button" aria-label="switch between dark and light">◐</button></div>
<div class="controls">
<label class="button"><input id="file" type="file" accept="image/*">Choose image…</label>
<button id="example" type="button">Paint an example</button>
<fieldset id="tasks" hidden><legend>task</legend></fieldset>
<label id="layer-label" hidden>layer <select id="layer">{options}
<option value="*">another…</option></select></label>
<label id="module-label" hidden>module <input id="module" placeholder="backbone.res3 or NAME:PART"
 autocomplete="off" spellcheck="false"></label>
<output id="status" role="status"></output>
</div>
</header>
<p id="message" role="alert" hidden></p>
<section id="empty"><div><svg viewBox="0 0 48 48" aria-hidden="true">
<rect x="4" y="9" width="40" height="30" rx="5"/><circle cx="15" cy="19" r="4"/>
<path d="M5 34l11-9 8 6 9-11 11 10"/></svg>
<p class="large">Drop an image here</p><p>or paste it, choose a file, or paint an example.<br>
It goes nowhere but to this server, and is kept in memory only.</p></div></section>
<main id="panels" hidden>
{panels}
</main>
<dialog id="large" aria-label="enlarged picture">
<div><p id="caption"></p><button id="close" type="button" aria-label="close">✕</button></div>
<img id="big" alt=""></dialog>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _panel(kind: str) -> str:
    heading, told, placed = PANELS[kind]
    stage = (
        ' data-placed tabindex="0" role="application" aria-roledescription="picture with a mark"'
        f' aria-label="{heading}: click or use the arrow keys to move the mark"'
        if placed
        else ""
    )
    return f"""<figure class="panel" data-kind="{kind}" aria-labelledby="name-{kind}" hidden>
<div class="over"><h2 id="name-{kind}">{heading}</h2><p class="told">{told}</p>
<button class="enlarge" type="button" aria-label="enlarge: {heading.lower()}">⤢</button></div>
<div class="stage"{stage}><img alt="{heading}"><i class="at" hidden></i></div>
<p class="problem" role="alert" hidden></p>
<div class="scale" hidden><b></b><i></i><b></b></div>
<figcaption></figcaption><ul class="legend"></ul>
</figure>"""
