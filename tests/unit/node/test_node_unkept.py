"""The owner's word where it cannot be written down: heeded all the same, said, and written once there is room."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from potluck.node.facts import Facts
from potluck.node.home import Home, HomeError, Kept
from potluck.node.settings import NodeSettings
from potluck.node.standing import Standing


def test_a_word_that_cannot_be_kept_is_heeded_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause on a full disk pauses and says once that it is not kept; with room again it is in the file."""

    def full(self: Home, name: str, value: msgspec.Struct) -> None:
        raise HomeError(f"{name} cannot be written: No space left on device")

    async def run() -> None:
        home, complaints = Home(tmp_path), list[str]()
        standing = Standing(asyncio.get_running_loop(), home, complaints.append)
        standing.decide(NodeSettings(), Facts())
        with monkeypatch.context() as patch:
            patch.setattr(Home, "write", full)
            standing.say(Kept(False))
            for _ in range(3):
                standing.decide(NodeSettings(), Facts())
            assert not standing.decision.serve
            assert complaints == [standing.unkept] == ["state.json cannot be written: No space left on device"]
        standing.decide(NodeSettings(), Facts())
        assert (standing.unkept, home.kept().serve) == ("", False)

    asyncio.run(run())
