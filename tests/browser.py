"""A browser without a window, driven over a pipe; needs Chromium and nothing else."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser():
    """The path of a Chromium, or None."""
    found = (shutil.which(name) for name in NAMES)
    return next((path for path in found if path), None)


@contextlib.contextmanager
def browser_page(address, *, size=(1280, 900), dark=False):
    """A tab of a new browser at an address; it ends with the context."""
    to_read, to_write = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            find_browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        # The browser takes commands from file 3 and answers on file 4.
        line = f'exec "$0" "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
        process = subprocess.Popen(
            ["bash", "-c", line, *command],
            pass_fds=(to_read[0], to_write[1]), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            page = Page(to_read[1], to_write[0])
            page.show(address, size, dark)
            yield page
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_read[1])
            os.close(to_write[0])


class Page:
    """One tab. ``messages`` are what it wrote to its console, errors and refusals included."""

    def __init__(self, commands, answers, patience=60):
        self.commands, self.answers, self.patience = commands, answers, patience
        self.rest, self.number, self.session, self.messages = b"", 0, None, []

    def show(self, address, size, dark):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method, **parameters):
        """One command of the DevTools protocol, and its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self.patience
        while time.monotonic() < until:
            answer = self._next(until)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise TimeoutError(method)

    def run(self, script):
        """The value of an expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, condition):
        """Until an expression is true."""
        until = time.monotonic() + self.patience
        while not self.run(condition):
            if time.monotonic() > until:
                raise TimeoutError(f"{condition}; the console says {self.messages}")
            time.sleep(0.1)

    def click(self, selector, across=0.5, down=0.5):
        """Press the mouse at a place of an element."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + across * box["width"], "y": box["y"] + down * box["height"]}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def key(self, name):
        """Press a key, such as ``ArrowLeft``."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def screenshot(self):
        """The whole page as base64 of a PNG."""
        return self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]

    def _next(self, until):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0, until - time.monotonic()))
            piece = os.read(self.answers, 2**20) if ready else b""
            if not piece:
                raise TimeoutError("the browser does not answer, or has ended")
            self.rest += piece
        first, _, self.rest = self.rest.partition(b"\0")
        answer = json.loads(first)
        if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(answer["params"])
        return answer
