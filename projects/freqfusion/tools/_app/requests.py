"""What a request must be like before anything is done for it."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit


class RefusedError(Exception):
    """A request that is not answered; ``status`` is the HTTP status, the text says why."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def check_host(header: str | None, names: Collection[str]) -> None:
    """Refuse names that somebody else's name server may have led here (DNS rebinding).

    An address of numbers is what it says; of names, only ``localhost`` and ``names`` are ours.
    """
    host = _host_of(header or "")
    if host == "localhost" or host in {name.lower() for name in names}:
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise RefusedError(
            HTTPStatus.FORBIDDEN,
            f"this server is not called {host!r}; use the address that it has printed",
        ) from None


def check_origin(origin: str | None, host: str | None) -> None:
    """Refuse a request that the page of another site has sent."""
    if origin is not None and origin.lower() != f"http://{host or ''}".lower():
        raise RefusedError(HTTPStatus.FORBIDDEN, f"requests of the page {origin!r} are not taken")


def check_token(sent: str | None, token: str) -> None:
    """Refuse whoever has not read our page."""
    if not hmac.compare_digest((sent or "").encode(), token.encode()):
        raise RefusedError(
            HTTPStatus.FORBIDDEN, "this page belongs to another run of the server; reload it"
        )


def body_length(length: str | None, encoding: str | None, most: int) -> int:
    """How long the body is; refused unless that is said and allowed."""
    if encoding is not None or length is None:
        raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "say with Content-Length how much is sent")
    if not length.isascii() or not length.isdecimal():
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"Content-Length {length!r} is no number")
    # More digits than that are too much, whatever they say.
    if len(length) > 18 or int(length) > most:
        raise RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the file has more than {most / 1e6:g} MB; send a smaller one",
        )
    return int(length)


def _host_of(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""
