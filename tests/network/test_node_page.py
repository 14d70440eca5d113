"""The agent's page on loopback: who may read, who may order, and that it survives nonsense."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from potluck.node.page import Page

REPORT: dict[str, Any] = {
    "name": "lab<1>",
    "state": "paused",
    "reason": "it does not serve: its owner paused it",
    "until": 1_800_000_000,
    "gateway": "https://g.example",
    "running": 1,
    "slots": 4,
    "waiting": 0,
    "mode": ["always"],
    "presence": "unknown",
    "models": [
        {"name": "<script>", "engine": "e", "context_tokens": None, "resident": True, "running": 0},
    ],
    "links": [{"up": True, "rtt_ms": 1.5, "next_try_s": None, "last_end": ""}],
    "ends": {"served": 3},
    "refusals": {"busy": 2},
    "withheld": ["vllm at http://127.0.0.1:8000: it is loading"],
    "errors": [{"at": 1_800_000_000, "what": "engine: gone"}],
}


class Served:
    def __init__(self, page: Page, orders: list[tuple[str, float | None]]) -> None:
        self.page = page
        self.orders = orders

    async def raw(self, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.page.port)
        try:
            writer.write(text)
            return await reader.read()
        finally:
            writer.close()

    async def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, str]:
        fields = {"host": f"127.0.0.1:{self.page.port}", "content-length": str(len(body)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        answer = (await self.raw(f"{method} {path} HTTP/1.1\r\n{lines}\r\n{body}".encode())).decode()
        head, _, content = answer.partition("\r\n\r\n")
        return int(head.split()[1]), head, content


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    orders: list[tuple[str, float | None]] = []
    page = Page(lambda: REPORT, lambda action, for_s: orders.append((action, for_s)))
    await page.start(0)
    yield Served(page, orders)
    await page.close()


async def test_it_says_in_one_line_why_it_does_not_serve(served: Served) -> None:
    """Reason and time of change are on the page; what an engine calls itself is text, never markup."""
    status, head, page = await served.ask("GET", "/")
    assert status == 200
    assert "It does not serve: its owner paused it (until " in page
    assert "lab&lt;1&gt;" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "default-src 'none'" in head
    assert served.page.token not in page + head
    assert json.loads((await served.ask("GET", "/status.json"))[2]) == REPORT


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", ""])
async def test_another_name_gets_nothing(served: Served, host: str) -> None:
    """A site whose name was made to point to this machine is told nothing."""
    status, _, body = await served.ask("GET", "/", host=host)
    assert status == 421
    assert "serve" not in body


async def test_orders_need_the_token(served: Served) -> None:
    """The bearer's order is obeyed; without it, or with another, nothing happens."""
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Bearer é"}, {"cookie": "potluck_node=x"}):
        assert (await served.ask("POST", "/control/pause", **headers))[0] == 403
    assert served.orders == []
    bearer = {"authorization": f"Bearer {served.page.token}"}
    assert (await served.ask("POST", "/control/pause", "for_s=60", **bearer))[0] == 200
    assert (await served.ask("POST", "/control/launch", **bearer))[0] == 400
    assert (await served.ask("POST", "/control/pause", "for_s=nan", **bearer))[0] == 400
    assert served.orders == [("pause", 60.0)]


async def test_buttons_are_its_owners_and_no_other_sites(served: Served) -> None:
    """`/enter/TOKEN` sets a cookie; the form's own token is needed beside it, and a foreign Origin is refused."""
    assert (await served.ask("GET", "/enter/wrong"))[0] == 403
    status, head, _ = await served.ask("GET", f"/enter/{served.page.token}")
    found = re.search(r"set-cookie: (potluck_node=[^;]+); HttpOnly; SameSite=Strict", head)
    assert (status, bool(found)) == (303, True)
    assert found is not None
    cookie = found[1]
    page = (await served.ask("GET", "/", cookie=cookie))[2]
    csrf = re.search(r"name=csrf value=(\w+)", page)
    assert csrf is not None
    own = f"http://127.0.0.1:{served.page.port}"
    for origin, form in (
        (own, ""),
        (own, "csrf=x"),
        ("http://evil.example", f"csrf={csrf[1]}"),
        ("null", f"csrf={csrf[1]}"),
    ):
        assert (await served.ask("POST", "/control/drain", form, cookie=cookie, origin=origin))[0] == 403
    assert served.orders == []
    assert (await served.ask("POST", "/control/drain", f"csrf={csrf[1]}&for_s=", cookie=cookie, origin=own))[0] == 303
    assert served.orders == [("drain", None)]


@pytest.mark.parametrize(
    "text",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 9999999\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"x" * 20_000,
    ],
)
async def test_nonsense_is_survived(served: Served, text: bytes) -> None:
    """What is not a small request gets an error or nothing, and the next one is answered."""
    answer = await served.raw(text)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert (await served.ask("GET", "/"))[0] == 200


async def test_the_next_free_port_is_taken(served: Served) -> None:
    """A port that is in use is passed over."""
    other = Page(lambda: REPORT, lambda *_: None)
    await other.start(served.page.port)
    assert other.port > served.page.port
    await other.close()
