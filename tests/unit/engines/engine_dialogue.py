"""Plays an engine from a table of pages, without sockets."""

import json
from typing import Any

from potluck.engines.fingerprints import Absent, Identity, identify
from potluck.engines.inventory import Inventory, take_inventory
from potluck.engines.questions import Dialogue, Question, Reply, T
from potluck.model.engine import Engine

Pages = dict[str, Any]
"""path → a Reply, a body as bytes, or something to be sent as JSON; what is not there is a 404"""


def page(value: Any, server: str = "") -> Reply:
    """A reply of status 200."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Reply(200, {"server": server} if server else {}, body)


def play(dialogue: Dialogue[T], pages: Pages, asked: list[Question] | None = None) -> T:
    """What the dialogue found out. `asked` collects the questions."""
    try:
        question = next(dialogue)
        while True:
            if asked is not None:
                asked.append(question)
            answer = pages.get(question.path, Reply(404, {}, b"404 page not found"))
            question = dialogue.send(answer if isinstance(answer, Reply) else page(answer))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def identity_of(pages: Pages) -> Identity:
    """Who it is; it is an engine."""
    found = play(identify(), pages)
    assert not isinstance(found, Absent), found
    return found


def inventory_of(pages: Pages, before: Engine | None = None, asked: list[Question] | None = None) -> Inventory:
    """What it serves."""
    return play(take_inventory(identity_of(pages), before), pages, asked)


def listing(owner: str, *ids: str, **members: Any) -> Any:
    """A page of `/v1/models`."""
    return {"object": "list", "data": [{"id": each, "owned_by": owner, **members} for each in ids or ("m1",)]}
