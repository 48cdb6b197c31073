"""A real browser for tests: Debian's Chromium without a window, driven by the Chrome DevTools Protocol.

Only what the tests of pages need: open, fill, click and wait for the next page, and what the browser complained about.
"""

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

START_S = 30
ANSWER_S = 20
LISTENING = re.compile(rb"DevTools listening on ws://([^/]+)/")
# The first four are what a machine without a display and a root user need; the others keep it from calling home.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # The CA of the deployment under test is in no trust store, and this profile lives for one test.
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)


@dataclass
class Page:
    """One tab. `complaints`: errors of the browser's log, refusals by the content security policy among them."""

    socket: aiohttp.ClientWebSocketResponse
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    complaints: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        async for message in self.socket:
            said = message.json()
            if said.get("id") in self.waiting:
                self.waiting.pop(said["id"]).set_result(said)
            elif said.get("method") == "Page.loadEventFired":
                self.loaded.set()
            elif said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(said["params"]["entry"]["text"])

    async def call(self, method: str, **params: Any) -> Any:
        number = next(self.numbers)
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": params})
        said = await asyncio.wait_for(answer, ANSWER_S)
        assert "error" not in said, said
        return said["result"]

    async def run(self, script: str, **values: str) -> Any:
        """What the expression comes to; `values` are its constants."""
        constants = "".join(f"const {name} = {json.dumps(value)}; " for name, value in values.items())
        whole = f"(() => {{ {constants}return {script} }})()"
        result = await self.call("Runtime.evaluate", expression=whole, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def go(self, url: str) -> None:
        self.loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self.loaded.wait(), ANSWER_S)

    async def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            await self.run("document.querySelector(`input[name=${name}]`).value = value", name=name, value=value)

    async def press(self, text: str, within: str = "body") -> None:
        """Click what bears this text, as somebody would who sees it, and wait for the page that follows."""
        script = "[...document.querySelector(within).querySelectorAll('button, a')]"
        script += ".find(e => e.checkVisibility() && e.innerText.trim().startsWith(text))"
        self.loaded.clear()
        await self.run(f"{script}.click()", text=text, within=within)
        await asyncio.wait_for(self.loaded.wait(), ANSWER_S)

    async def text(self) -> str:
        return str(await self.run("document.body.innerText"))

    async def path(self) -> str:
        return str(await self.run("location.pathname"))


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Page]:
    """A browser with an empty profile under `folder`, 1200 by 800 pixels; taken down with all its processes."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: scripts/install-debian.sh tests"
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    try:
        address = await asyncio.wait_for(_address(process.stderr), START_S)
        async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as session:
            draining = tasks.create_task(process.stderr.read())  # a full pipe would stop it
            async with session.put(f"{address}/json/new?about:blank") as answer:
                tab = await answer.json(content_type=None)
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                tasks.create_task(page.listen())
                for domain in ("Page", "Log"):
                    await page.call(f"{domain}.enable")
                size = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
                await page.call("Emulation.setDeviceMetricsOverride", **size)
                yield page
            process.terminate()
            await draining
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _address(output: asyncio.StreamReader) -> str:
    """Chromium tells the port that it chose: `DevTools listening on ws://127.0.0.1:39457/devtools/…`."""
    said = b""
    while line := await output.readline():
        said += line
        if found := LISTENING.search(line):
            return f"http://{found[1].decode()}"
    raise ChildProcessError(f"chromium ended: {said.decode(errors='replace')[-800:]}")
