"""The viewer: its answers, what it refuses, its page, and the page in a browser."""

import base64
import contextlib
import hashlib
import html
import http.client
import io
import json
import re
import socket
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser_page, find_browser
from PIL import Image

from freqfusion.drawing import Instance
from freqfusion.tools import app
from freqfusion.tools._app.confidence import confidence_map
from freqfusion.tools._app.looks import Looks
from freqfusion.tools._app.page_style import STYLE
from freqfusion.tools._app.pictures import Shown, draw_map, scale_colors
from freqfusion.tools._app.requests import RefusedError, check_host
from freqfusion.tools._app.server import ViewerServer
from freqfusion.tools._app.uploads import Limits, decode_image

pytestmark = pytest.mark.detectron2

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/synthetic"
PANOPTIC = str(CONFIGS / "panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")
SFM = str(CONFIGS / "semantic-segmentation/sfm_semantic_fpn_r18.yaml")
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96", "MODEL.DEVICE", "cpu"]
LIMITS = Limits(200_000, 100_000)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Models that have learnt nothing; the attention of the second says something at random."""
    from detectron2.modeling import build_model
    from sfm_models import shake_attention

    from freqfusion.engine.setup import load_config

    folder, files = tmp_path_factory.mktemp("weights"), {}
    for name, config in (("panoptic", PANOPTIC), ("sfm", SFM)):
        torch.manual_seed(0)
        model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
        model = shake_attention(model) if name == "sfm" else model
        files[name] = str(folder / f"{name}.pth")
        torch.save({"model": model.state_dict()}, files[name])
    return files


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def made(config, weights, *more):
    arguments = ["--config-file", config, "--weights", weights, *more, *SMALL]
    return serving(app.make_server(app._parser().parse_args(arguments)))


@pytest.fixture(scope="module")
def server(weights):
    """A panoptic model that looks closely at no instance."""
    with made(
        PANOPTIC, weights["panoptic"], "--max-megabytes", "1", "--max-megapixels", "1"
    ) as one:
        yield one


@pytest.fixture(scope="module")
def look(server):
    """The name of a look at an example, kept whatever is looked at later."""
    server.viewer.looks.most = 100
    return call(server, "/api/example", {"number": 0})[1]["look"]


class StillViewer:
    """Instead of a model."""

    def __init__(self, work=lambda: None):
        self.work, self.looks = work, Looks()

    def layers(self):
        return ["p2"], "p2"

    def look(self, image):
        self.work()
        raise ValueError("nothing to see")


@pytest.fixture
def still():
    with serving(ViewerServer(StillViewer(), "<still>", ("127.0.0.1", 0), LIMITS)) as one:
        yield one


def send(server, method, path, body=None, **headers):
    """Status, headers and body of one request; a header of None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    sent = {"Host": f"127.0.0.1:{server.server_address[1]}", "X-Token": server.token}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if method == "POST" and "Content_Length" not in headers:
        sent["Content-Length"] = str(len(body or b""))
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def call(server, path, body, **headers):
    """Status and JSON of a call of the page."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, content = send(server, "POST", path, data, **headers)
    return status, json.loads(content)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(address):
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_page_stands_alone(server):
    """Its policy allows its own script and style and nothing else; it names no other address."""
    status, headers, content = send(server, "GET", "/?from=anywhere", X_Token=None)
    page = content.decode()
    assert status == 200
    assert server.token in page
    policy = headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert '<option value="fused" selected>' in page
    assert '<option value="res4">' in page


def test_title_cannot_be_code(still):
    page = send(still, "GET", "/")[2].decode()
    assert "<still>" not in page
    assert html.escape("<still>") in page


def test_example_shows_everything_but_modulation(server):
    """Similarity is 1 at the mark; pictures over the image are all of one size."""
    status, seen = call(server, "/api/example", {"number": 3})
    assert status == 200
    assert seen["tasks"] == ["semantic", "instance", "panoptic"]
    assert seen["kinds"] == ["prediction", "confidence", "similarity", "before", "spectrum"]
    size = decoded(seen["image"]).shape
    assert size[0] / size[1] == seen["height"] / seen["width"]
    for task in seen["tasks"]:
        for kind in ("prediction", "confidence"):
            status, shown = call(
                server, "/api/picture", {"look": seen["look"], "kind": kind, "task": task}
            )
            assert status == 200
            assert decoded(shown["picture"]).shape == size
            assert shown["scale"] == ([0, 1] if kind == "confidence" else None)
    for layer in ("fused", "res4", "my=backbone.fpn_output2"):
        asked = {"look": seen["look"], "kind": "similarity", "layer": layer, "x": 0.2, "y": 0.9}
        status, shown = call(server, "/api/picture", asked)
        assert status == 200
        picture = decoded(shown["picture"])
        assert picture.shape == size
        assert shown["scale"][1] == 1
        at = picture[int(0.9 * size[0]), int(0.2 * size[1])].astype(int)
        assert at[0] > 180, "the top of the scale is yellow"
        assert at[2] < 90
    status, shown = call(server, "/api/picture", {"look": seen["look"], "kind": "spectrum"})
    assert decoded(shown["picture"]).shape[0] > 400


def test_other_places_look_different_and_the_same_place_the_same(server, look):
    def picture(x):
        asked = {"look": look, "kind": "before", "x": x, "y": 0.5}
        return call(server, "/api/picture", asked)[1]["picture"]

    assert picture(0.1) == picture(0.1) != picture(0.9)


def test_modulated_model_shows_lattice_and_attention(weights):
    with made(SFM, weights["sfm"]) as server:
        _, seen = call(server, "/api/look", encoded(PHOTO))
        assert seen["tasks"] == ["semantic"]
        assert seen["kinds"][-2:] == ["lattice", "attention"]
        pictures = [
            decoded(
                call(server, "/api/picture", {"look": seen["look"], "kind": kind})[1]["picture"]
            )
            for kind in ("lattice", "attention")
        ]
        assert all(picture.shape[1] > 2 * picture.shape[0] for picture in pictures), "panels"
        assert all(picture.std() > 20 for picture in pictures)


def test_upload_is_turned_and_never_written(server, monkeypatch):
    """Held upright by its EXIF; no file is opened for writing meanwhile."""
    call(server, "/api/look", encoded(PHOTO))  # what is made once, such as caches of fonts
    written, watching = [], [True]

    def watch(event, arguments):
        if watching[0] and event == "open" and isinstance(arguments[0], str | bytes):
            mode = str(arguments[1] or "")
            if set("wax+") & set(mode) and arguments[0] != "/dev/null":
                written.append(arguments[0])

    sys.addaudithook(watch)
    exif = Image.Exif()
    exif[0x0112] = 6
    try:
        status, seen = call(server, "/api/look", encoded(PHOTO, "JPEG", exif=exif))
        call(server, "/api/picture", {"look": seen["look"], "kind": "spectrum"})
    finally:
        watching[0] = False
    assert status == 200
    assert (seen["width"], seen["height"]) == (48, 64)
    assert not written


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"X_Token": "guess"}, 403, "belongs to another run"),
        ({"X_Token": None}, 403, "belongs to another run"),
        ({"X_Token": "\u00e9"}, 403, "belongs to another run"),
        ({"Host": "evil.example:80"}, 403, "not called 'evil.example'"),
        ({"Host": "localhost.evil.example"}, 403, "not called"),
        ({"Host": None}, 403, "not called"),
        ({"Host": "[::1"}, 403, "not called"),
        ({"Origin": "http://evil.example"}, 403, "evil.example"),
        ({"Origin": "null"}, 403, "'null'"),
        ({"Content_Length": None}, 411, "Content-Length"),
        ({"Transfer_Encoding": "chunked"}, 411, "Content-Length"),
        ({"Content_Length": "-3"}, 400, "is no number"),
        ({"Content_Length": "200001"}, 413, "more than 0.2 MB"),
        ({"Content_Length": "9" * 5000}, 413, "more than 0.2 MB"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_read(still, headers, status, message):
    found, answer = call(still, "/api/look", b"", **headers)
    assert (found, message in answer["error"]) == (status, True), answer


def test_own_origin_and_other_names_of_this_machine_are_taken(still):
    port = still.server_address[1]
    for host in (f"localhost:{port}", f"[::1]:{port}", "192.0.2.7:9000", "LOCALHOST"):
        status, answer = call(
            still, "/api/look", encoded(PHOTO), Host=host, Origin=f"http://{host}"
        )
        assert (status, answer["error"]) == (400, "Nothing to see."), host
    assert send(still, "GET", "/", Host="evil.example")[0] == 403
    check_host("lab7:8000", ["127.0.0.1", "Lab7"])
    with pytest.raises(RefusedError, match="lab8"):
        check_host("lab8:8000", ["127.0.0.1", "Lab7"])


def test_too_large_upload_gets_a_sentence(still):
    """Also while it is still being sent."""
    status, answer = call(still, "/api/look", bytes(20 * 10**6))
    assert status == 413
    assert answer["error"] == "The file has more than 0.2 MB; send a smaller one."


def test_upload_that_ends_early(still):
    with socket.create_connection(still.server_address, timeout=20) as line:
        head = f"POST /api/look HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Token: {still.token}\r\n"
        line.sendall(f"{head}Content-Length: 100\r\n\r\nshort".encode())
        line.shutdown(socket.SHUT_WR)
        answer = line.makefile("rb").read()
    assert b" 400 " in answer
    assert b"did not come whole" in answer


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2fREADME.md",
        "/README.md",
        "/api/look",
        "file:///etc/passwd",
        "/\\..\\..\\etc\\passwd",
    ],
)  # fmt: skip
def test_no_file_can_be_read(still, path):
    for method in ("GET", "POST"):
        status, _, content = send(still, method, path, b"{}" if method == "POST" else None)
        assert b"root:" not in content
        assert b"freqfusion" not in content
        if (method, path) != ("POST", "/api/look"):
            assert status == 404
    assert send(still, "DELETE", path)[0] == 501


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "this is no image"),
        (b"not an image at all", "this is no image; sent can be JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "this is no image"),
        (encoded(PHOTO, "GIF"), "this is no image"),
        (encoded(PHOTO)[:2000], "the image is broken"),
        (encoded(PHOTO, "TIFF")[:600], "no image|is broken"),
        (encoded(np.zeros((400, 300, 3), np.uint8)), "300 x 400 pixels: .* 0.1 million pixels"),
        (encoded(np.zeros((4, 40, 3), np.uint8)), "8 pixels or more"),
        (encoded(np.zeros((10, 201, 3), np.uint8)), "at most 20 times"),
        (encoded(np.zeros((10, 201, 3), np.uint8), "PPM") + bytes(200_000), "more than 0.2 MB"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_good_image(data, message):
    with pytest.raises(ValueError, match=message):
        decode_image(data, LIMITS)


def test_size_is_looked_at_before_pixels(monkeypatch):
    """A header may promise any size; a picture of a small file that is huge is never made."""
    bomb = bytearray(encoded(PHOTO))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="million pixels"):
        decode_image(bytes(bomb), LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_formats(kind):
    assert decode_image(encoded(PHOTO, kind), LIMITS).shape == PHOTO.shape


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layer": "backbone.rse4"}, "no module 'backbone.rse4'"),
        ({"layer": ":::"}, "cannot read the layer"),
        ({"layer": "backbone"}, "is a dict of p2"),
        ({"layer": "proposal_generator.anchor_generator"}, "not a tensor|does not run"),
        ({"kind": "prediction", "task": "depth"}, "no task 'depth'; it has semantic, instance"),
        ({"kind": "lattice"}, "no 'lattice'; it has prediction"),
        ({"kind": None}, "no 'None'"),
        ({"x": 1.5}, "x must be a number from 0 to 1, not 1.5"),
        ({"y": float("nan")}, "y must be a number from 0 to 1, not nan"),
        ({"y": "0.5"}, "y must be a number"),
        ({"x": True}, "x must be a number"),
        ({"look": "../../x"}, "no longer in memory"),
    ],
)
def test_questions_without_an_answer(server, look, asked, message):
    status, answer = call(
        server, "/api/picture", {"look": look, "kind": "similarity", "layer": "fused"} | asked
    )
    assert status == 400
    assert re.search(message, answer["error"], re.IGNORECASE), answer


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b"[" * 15_000, b"\xff"])
def test_questions_that_are_none(still, body):
    status, answer = call(still, "/api/picture", body)
    assert status == 400
    assert "JSON" in answer["error"]
    assert call(still, "/api/example", {"number": "1"})[0] == 400


def test_model_runs_for_one_at_a_time():
    now, most, lock = [0], [0], threading.Lock()

    def work():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    with serving(ViewerServer(StillViewer(work), "still", ("127.0.0.1", 0), LIMITS)) as server:
        threads = [
            threading.Thread(target=call, args=(server, "/api/look", encoded(PHOTO)))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1


def test_too_many_at_a_time_are_sent_away(still):
    while still.waiting.acquire(blocking=False):
        pass
    status, answer = call(still, "/api/look", encoded(PHOTO))
    assert status == 503
    assert "busy" in answer["error"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("odd"), 500, "the terminal of the server says more"),
        (MemoryError(), 400, "not enough memory"),
        (torch.cuda.OutOfMemoryError("CUDA"), 400, "not enough memory"),
    ],
)
def test_failing_model_does_not_end_the_server(error, status, message):
    def work():
        raise error

    with serving(ViewerServer(StillViewer(work), "still", ("127.0.0.1", 0), LIMITS)) as server:
        for _ in range(2):
            found, answer = call(server, "/api/look", encoded(PHOTO))
            assert found == status
            assert message in answer["error"]
            assert "odd" not in answer["error"], "what is inside stays inside"


def test_old_looks_are_forgotten():
    looks = Looks(most=2)
    first, second = looks.add("first"), looks.add("second")
    assert looks[first] == "first", "which makes it the newest"
    looks.add("third")
    assert looks[first] == "first"
    with pytest.raises(ValueError, match="send it again"):
        looks[second]


def test_images_with_many_pixels_are_made_smaller(server, monkeypatch):
    """3000 pixels are at most 63 x 47 of 64 x 48; what is drawn fits them."""
    from freqfusion.tools._app import viewer

    monkeypatch.setattr(viewer, "MOST_PIXELS", 3000)
    seen = call(server, "/api/look", encoded(PHOTO))[1]
    assert (seen["before"], seen["width"], seen["height"]) == ([64, 48], 63, 47)
    asked = {"look": seen["look"], "kind": "confidence", "task": "panoptic"}
    shown = decoded(call(server, "/api/picture", asked)[1]["picture"])
    assert shown.shape == decoded(seen["image"]).shape
    assert shown.shape[0] % 47 == shown.shape[1] % 63 == 0


def test_confidence_by_hand():
    """Logits 0 and log 3 are 1/4 and 3/4; scores 0.2 and 0.2 are one half each."""
    from freqfusion.evaluation.pictures import Content

    scores = torch.tensor([[[0.0, 5.0]], [[3.0, 5.0]]])
    logits = torch.tensor([[[0.0, 0.2]], [[np.log(3), 0.2]]])
    output = {"sem_seg": logits}
    found, _ = confidence_map("semantic", output, Content(), (1, 2), "logits")
    np.testing.assert_allclose(found, [[0.75, 0.5]], rtol=1e-6)
    found, _ = confidence_map("semantic", {"sem_seg": scores}, Content(), (1, 2), "scores")
    np.testing.assert_allclose(found, [[1, 0.5]])
    output["panoptic_seg"] = (
        torch.tensor([[1, 2]]),
        [{"id": 1, "category_id": 0, "isthing": False}, {"id": 2, "category_id": 0, "score": 0.9}],
    )
    found, _ = confidence_map("panoptic", output, Content(), (1, 2), "logits")
    np.testing.assert_allclose(found, [[0.75, 0.9]], rtol=1e-6)
    both = np.array([[True, True]])
    content = Content(
        instance=(
            Instance(0, "a", both, None, 0.6),
            Instance(0, "b", np.array([[False, True]]), None, 0.8),
            Instance(0, "c", both, None, 0.7),
            Instance(0, "box only", None, (0, 0, 1, 1), 0.9),
        )
    )
    found, _ = confidence_map("instance", {}, content, (1, 2), "logits")
    np.testing.assert_allclose(found, [[0.7, 0.8]], rtol=1e-6)


def test_bar_below_maps_has_their_colors():
    said = re.findall(r"#([0-9a-f]{6})\b", STYLE[STYLE.index("linear-gradient") :].split(")")[0])
    colors = scale_colors()[np.round(np.linspace(0, 255, len(said))).astype(int)]
    shown = np.array([list(bytes.fromhex(one)) for one in said])
    assert np.abs(shown - colors.astype(int)).max() <= 3


def test_map_lies_over_its_image():
    """Ends of the scale in two corners of a black image; values beyond it are cut off."""
    values = np.full((50, 80), 0.5)
    values[0, 0], values[-1, -1] = 7.0, -7.0
    picture = draw_map(np.zeros((50, 80, 3), np.uint8), values, (0.0, 1.0), "").picture
    colors = scale_colors().astype(int)
    for pixel, at in ((picture[0, 0], 255), (picture[-1, -1], 0), (picture[0, -1], 128)):
        ground = 18 * 0.18
        assert np.abs(pixel - (0.82 * colors[at] + ground)).max() <= 2


def test_shown_is_json():
    shown = Shown(b"png", "note", {"sky": (1, 2, 3)}, (0.0, 1.0)).as_json()
    assert json.loads(json.dumps(shown))["legend"] == [{"name": "sky", "color": [1, 2, 3]}]


def test_started_and_ended(weights, monkeypatch, capsys):
    """It says where it is; a warning where others can reach it."""

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ViewerServer, "serve_forever", interrupted)
    arguments = ["--config-file", SFM, "--weights", weights["sfm"]]
    assert app.main([*arguments, *SMALL]) == 0
    said = capsys.readouterr()
    assert re.match(r"open http://127\.0\.0\.1:[1-9]\d*/ in a browser", said.out)
    assert "listening" not in said.err
    assert app.main([*arguments, "--host", "0.0.0.0", *SMALL]) == 0
    said = capsys.readouterr()
    assert "open http://127.0.0.1:" in said.out
    assert "listening at 0.0.0.0: whoever can reach this machine" in said.err


def test_mistakes_are_one_sentence(weights, capsys):
    arguments = ["--config-file", SFM, "--weights", weights["sfm"]]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert app.main([*arguments, "--port", port, *SMALL]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}" in capsys.readouterr().err
    assert app.main([*arguments, "--port", "99999", *SMALL]) == 2
    assert "port 99999" in capsys.readouterr().err
    assert app.main(["--config-file", SFM]) == 2
    assert "no weights" in capsys.readouterr().err
    assert app.main(["--config-file", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "app: there is no configuration nowhere.yaml\n"


READY = "!document.querySelector('[aria-busy]') && !document.querySelector('#panels').hidden"
SHOWN = "[...document.querySelectorAll('.panel:not([hidden]) img')].map((one) => one.naturalWidth)"


@pytest.mark.e2e
@pytest.mark.skipif(find_browser() is None, reason="there is no Chromium on the PATH")
def test_page_in_a_browser(server):
    """Example, a click, the keys, another layer, a wrong one, a dropped file, a bad file."""
    source = "document.querySelector('[data-kind=similarity] img').src"
    with browser_page(server.url) as page:
        page.click("#example")
        page.wait_for(READY)
        widths = page.run(SHOWN)
        assert len(widths) == 6
        assert min(widths) > 300, "all pictures are there"
        before = page.run(source)
        page.click("[data-kind=prediction] .stage", 0.25, 0.75)
        page.wait_for(f"{source}.length > 100 && {READY} && {source} !== {json.dumps(before)}")
        mark = page.run("document.querySelector('[data-kind=image] .at').style.left")
        assert abs(float(mark.rstrip("%")) - 25) < 1
        page.run("document.querySelector('[data-kind=image] .stage').focus()")
        page.key("ArrowRight")
        moved = page.run("document.querySelector('[data-kind=image] .at').style.left")
        assert abs(float(moved.rstrip("%")) - 27) < 1
        page.click("input[value=semantic]")
        page.wait_for(f"document.querySelector('input[value=semantic]').checked && {READY}")
        choose = "const one = document.getElementById('{}'); one.value = '{}';" + (
            "one.dispatchEvent(new Event('change'))"
        )
        page.run("{" + choose.format("layer", "*") + "}")
        page.run("{" + choose.format("module", "backbone.nothing") + "}")
        problem = "document.querySelector('[data-kind=similarity] .problem')"
        page.wait_for(f"!{problem}.hidden && {READY}")
        assert "no module 'backbone.nothing'" in page.run(f"{problem}.textContent")
        page.run("{" + choose.format("layer", "res3") + "}")
        page.wait_for(f"{problem}.hidden && {READY}")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        drop = (
            "{const data = new DataTransfer(); data.items.add(new File([%s], 'my.png'));"
            "dispatchEvent(Object.assign(new DragEvent('drop', {dataTransfer: data})))}"
        )
        page.run(drop % f"new Uint8Array({list(encoded(PHOTO))})")
        page.wait_for(f"document.getElementById('status').value === 'my.png, 64 × 48' && {READY}")
        page.run(drop % "'no image'")
        page.wait_for("!document.getElementById('message').hidden")
        assert "This is no image" in page.run("document.getElementById('message').textContent")
        page.run(drop % "new Uint8Array(1500000)")
        page.wait_for("document.getElementById('message').textContent.includes('1.5 MB')")
        # The browser logs answers of 4xx; nothing else, so no refusal by the page's policy either.
        texts = [str(one) for one in page.messages]
        assert all("Failed to load resource" in one and " 400 " in one for one in texts), texts


@pytest.mark.e2e
@pytest.mark.skipif(find_browser() is None, reason="there is no Chromium on the PATH")
def test_page_fits_narrow_screens(server):
    with browser_page(server.url, size=(320, 640), dark=True) as page:
        page.click("#example")
        page.wait_for(READY)
        assert page.run("document.documentElement.scrollWidth") <= 320
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(19, 19, 22)"
        unnamed = page.run(
            "[...document.querySelectorAll('button, input, select, [tabindex]')].filter((one) =>"
            " !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).length"
        )
        assert unnamed == 0
