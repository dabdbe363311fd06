"""The viewer over HTTP: one page, three calls for it, and nothing else."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
from collections.abc import Collection, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from freqfusion.tools._app.page import CONTENT_POLICY, render_page
from freqfusion.tools._app.requests import (
    RefusedError,
    body_length,
    check_host,
    check_origin,
    check_token,
)
from freqfusion.tools._app.uploads import Limits, decode_image
from freqfusion.tools._app.viewer import Viewer

logger = logging.getLogger(__name__)

_LARGEST_QUESTION = 20_000
_EXAMPLE_SIZE = (256, 320)
_MOST_EXAMPLES = 10_000
# Requests that wait at a time; each may hold an upload in memory.
_MOST_WAITING = 16
# Of a refused upload; a browser that is cut off while it sends shows no answer.
_MOST_DISCARDED = 256 * 10**6
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class ViewerServer(ThreadingHTTPServer):
    """Serves one viewer; the model runs for one request at a time.

    Args:
        viewer: The model.
        title: What the page is called.
        address: Host and port to listen at; port 0 takes a free one.
        limits: Of uploads.
        names: Names of this machine that a browser may call it by, besides addresses of numbers
            and ``localhost``.
        example: ``(seed, size)`` of the scenes that are painted for those who have no image.
    """

    daemon_threads = True

    def __init__(
        self,
        viewer: Viewer,
        title: str,
        address: tuple[str, int],
        limits: Limits,
        *,
        names: Collection[str] = (),
        example: tuple[int, tuple[int, int]] = (0, _EXAMPLE_SIZE),
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.viewer, self.title, self.limits = viewer, title, limits
        self.names, self.example = names, example
        self.token = secrets.token_urlsafe(24)
        self.model_lock = threading.Lock()
        self.waiting = threading.BoundedSemaphore(_MOST_WAITING)
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """The address to open."""
        host, port = self.server_address[:2]
        name = str(host)
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
        return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"

    def page(self) -> str:
        """The page, with the token that its calls carry."""
        return render_page(self.title, self.token, *self.viewer.layers(), self.limits.bytes)

    def look(self, image: Any) -> dict[str, Any]:
        """Run the model on an image; what can be seen of it."""
        name, look = self.viewer.look(image)
        height, width = look.image.shape[:2]
        return {
            "look": name,
            "height": height,
            "width": width,
            "before": [image.shape[1], image.shape[0]],
            "tasks": list(look.content.tasks()),
            "kinds": self.viewer.kinds(look),
            "image": self.viewer.show("image", look, {}).as_json()["picture"],
        }

    def call(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer one call of the page, after the others.

        Raises:
            ValueError: for what the user can mend.
        """
        with self.model_lock:
            if path == "/api/look":
                return self.look(decode_image(body, self.limits))
            asked = _question(body)
            if path == "/api/example":
                return self.look(self._example(asked))
            look = self.viewer.looks[str(asked.get("look"))]
            return self.viewer.show(str(asked.get("kind")), look, asked).as_json()

    def _example(self, asked: Mapping[str, Any]) -> Any:
        from freqfusion.data.synthetic import make_scene

        number = asked.get("number", 0)
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"number must be a whole number, not {number!r}")
        seed, size = self.example
        return make_scene(seed, number % _MOST_EXAMPLES, size, detail="simple").image


def _question(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the question is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise ValueError("the question is not a JSON object")
    return asked


class _Handler(BaseHTTPRequestHandler):
    """One connection. No path of the machine is ever made of what was asked for."""

    server: ViewerServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "freqfusion", ""
    timeout = 60

    def do_GET(self) -> None:
        """The page."""
        try:
            check_host(self.headers.get("Host"), self.server.names)
            if self.path.partition("?")[0] != "/":
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here but the page /")
        except RefusedError as error:
            self._answer(error.status, "text/plain; charset=utf-8", str(error).encode())
            return
        self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page().encode())

    def do_POST(self) -> None:
        """A call of the page."""
        try:
            body = self._body()
        except RefusedError as error:
            self._refuse(error)
            return
        if not self.server.waiting.acquire(blocking=False):
            self._json(HTTPStatus.SERVICE_UNAVAILABLE, _said("the model is busy; try again later"))
            return
        try:
            self._json(*self._result(body))
        finally:
            self.server.waiting.release()

    def _body(self) -> bytes:
        """What was sent, once everything that can be checked before has been."""
        host = self.headers.get("Host")
        check_host(host, self.server.names)
        check_origin(self.headers.get("Origin"), host)
        check_token(self.headers.get("X-Token"), self.server.token)
        most = {
            "/api/look": self.server.limits.bytes,
            "/api/example": _LARGEST_QUESTION,
            "/api/picture": _LARGEST_QUESTION,
        }
        if self.path not in most:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no call {self.path[:80]!r}")
        sent = self.headers.get("Content-Length"), self.headers.get("Transfer-Encoding")
        length = body_length(*sent, most[self.path])
        body = self.rfile.read(length)
        if len(body) < length:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the file did not come whole; send it again")
        return body

    def _result(self, body: bytes) -> tuple[HTTPStatus, Any]:
        import torch

        try:
            return HTTPStatus.OK, self.server.call(self.path, body)
        except ValueError as error:
            return HTTPStatus.BAD_REQUEST, _said(str(error))
        except (torch.cuda.OutOfMemoryError, MemoryError):
            return HTTPStatus.BAD_REQUEST, _said("there is not enough memory for this image")
        except Exception:
            # The server goes on, whatever a model does with an odd image.
            logger.exception("the viewer failed")
            text = "the model failed on this image; the terminal of the server says more"
            return HTTPStatus.INTERNAL_SERVER_ERROR, _said(text)

    def _refuse(self, error: RefusedError) -> None:
        """Answer, then read what is still being sent, so that the answer can be read."""
        self.close_connection = True
        self._json(error.status, _said(str(error)))
        left = _MOST_DISCARDED
        self.connection.settimeout(2)
        try:
            while left > 0 and (piece := self.rfile.read1(min(left, 65536))):
                left -= len(piece)
        except OSError:
            pass

    def _json(self, status: HTTPStatus, content: Any) -> None:
        self._answer(status, "application/json", json.dumps(content).encode())

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, where it is wanted; the terminal is for what went wrong."""
        logger.debug(format, *args)


def _said(text: str) -> dict[str, str]:
    return {"error": text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")}
