"""A real browser for tests: Debian's chromium without a screen, driven over the Chrome DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_SECONDS = 60  # a machine may be slow

# Keys that are no characters, by their code.
KEY_CODES = {"Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38}
KEY_CODES |= {"ArrowRight": 39, "ArrowDown": 40, "Delete": 46, "Tab": 9, "Enter": 13, " ": 32}


class Tab:
    """One page in the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._count = 0
        self.complaints: list[str] = []  # errors of scripts, and what the browser refused to do
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; returns its result."""
        self._count += 1
        self._connection.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE_SECONDS))
            if message.get("id") == self._count:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"]["text"])
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])

    def open(self, address: str, width: int, height: int, *, phone: bool = False) -> None:
        """Show a page, in a window of this many CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Until the expression is true."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"waited in vain for {script}; {self.complaints}"
            time.sleep(0.02)
        return value

    def click(self, selector: str) -> None:
        """With the mouse, where the element is on the screen."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, wherever the focus is."""
        code = KEY_CODES.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """Of the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """A running chromium."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tabs = ExitStack()

    def tab(self) -> Tab:
        """A new, empty one."""
        made = json.loads(self._ask("new", "PUT"))
        # It takes all that comes, whether it is read or not.
        url = made["webSocketDebuggerUrl"]
        connection = connect(url, max_size=1 << 26, max_queue=None, compression=None, open_timeout=PATIENCE_SECONDS)
        tab = Tab(self._tabs.enter_context(connection))
        self._tabs.callback(self._ask, f"close/{made['id']}", "GET")
        return tab

    def _ask(self, what: str, method: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/{what}", method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            said: bytes = answer.read()
        return said

    def close_tabs(self) -> None:
        """The browser itself goes on."""
        self._tabs.close()


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium, with its files in `folder`."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--remote-debugging-port=0",
        "--no-sandbox",  # as root, and in containers
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-background-timer-throttling",
        "--disable-renderer-backgrounding",
        "--disable-backgrounding-occluded-windows",
        f"--user-data-dir={folder}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end, told = time.monotonic() + PATIENCE_SECONDS, folder / "DevToolsActivePort"
            while not (told.exists() and told.read_text().count("\n")):
                assert process.poll() is None and time.monotonic() < end, "chromium did not start"
                time.sleep(0.05)
            yield Browser(int(told.read_text().split("\n")[0]))
        finally:
            process.terminate()
