"""A headless Chromium, driven by chromedriver without another package."""

import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromedriver")
_OPTIONS = {
    "browserName": "chrome",
    "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    "goog:chromeOptions": {
        "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        "binary": shutil.which("chromium"),
    },
}

_PAINTED = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"


def is_there() -> bool:
    return all(map(shutil.which, PROGRAMS))


class Browser:
    """One window. It records the requested URLs."""

    def __init__(self, address: str):
        self._address = f"{address}/session"
        session = self._ask("", {"capabilities": {"alwaysMatch": _OPTIONS}})
        self._address += f"/{session['sessionId']}"

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
        """Loads a page with a window size and a preferred color scheme."""
        self.log("performance")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.tell("Emulation.setEmulatedMedia", features=features)
        self._ask("/url", {"url": page.as_uri()})
        # Chromium drops key events until the page is painted, which precedes the second frame.
        self._ask("/execute/async", {"script": _PAINTED, "args": []})

    def log(self, kind: str) -> list[dict]:
        """Returns log entries since the last call. kind is browser (the console) or performance."""
        return self._ask("/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """Returns the URLs requested since the last call or load."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [each for each in events if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def run(self, script: str) -> Any:
        """Returns the value of a script."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def press(self, key: str, code: int) -> None:
        """Presses a key, given its name and its Windows key code."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            held = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.tell("Input.dispatchKeyEvent", **held, **(text if kind == "keyDown" else {}))

    def picture(self, path: Path) -> None:
        """Returns the whole page as PNG."""
        shot = self.tell("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def tell(self, command: str, **params: Any) -> Any:
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": params})

    def quit(self) -> None:
        request = urllib.request.Request(self._address, method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()

    def _ask(self, path: str, body: dict) -> Any:
        request = urllib.request.Request(
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Yields a browser, which is closed afterwards."""
    driver = shutil.which("chromedriver")
    assert driver is not None
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        # 'ChromeDriver was started successfully on port 38041.'
        said = next(line for line in process.stdout if "successfully on port" in line)
        found = Browser(f"http://127.0.0.1:{said.rstrip().rstrip('.').rpartition(' ')[2]}")
        try:
            yield found
        finally:
            found.quit()
    finally:
        process.terminate()
        process.communicate()
