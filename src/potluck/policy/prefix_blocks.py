"""Which beginnings of prompts a machine is likely to have in its cache: a guess made where requests are sent from.

A prompt is cut into blocks of `BLOCK_BYTES`; each block's number covers all that comes before it, so that two prompts
share as many leading numbers as they share blocks. Engines cache tokens and tell nobody which: a machine has what was
sent to it of late, as far as its context goes.
"""

from collections.abc import Sequence

BLOCK_BYTES = 1_024
BLOCK_TOKENS = 256
"""of a block, four bytes a token"""
MAX_BLOCKS = 512
"""of one prompt that are looked at: what comes after half a megabyte decides nothing any more"""
MAX_CACHED_BLOCKS = 16_384
"""of one machine that are remembered, whatever context it claims"""
EXPIRY_S = 300.0
"""Ollama unloads after so long, other engines need the room"""


def blocks_of(seed: object, raw: bytes | memoryview) -> tuple[int, ...]:
    """Numbers of the whole blocks of a prompt (`raw`: its JSON as sent), first to last; an unfinished one has none.

    `seed`: what makes equal text another prompt (whose it is, its tools). The numbers mean something in this process
    only: they are keyed by the interpreter's secret, so nobody can send prompts that collide.
    """
    view = memoryview(raw)
    so_far = hash(seed)
    found = []
    for start in range(0, min(len(view) - BLOCK_BYTES + 1, MAX_BLOCKS * BLOCK_BYTES), BLOCK_BYTES):
        so_far = hash((so_far, bytes(view[start : start + BLOCK_BYTES])))
        found.append(so_far)
    return tuple(found)


class PrefixBlocks:
    """The blocks that one machine has, as far as is known; those unused for longest go first. One event loop's."""

    __slots__ = ("_blocks", "_limit")

    def __init__(self, context_tokens: int) -> None:
        """`context_tokens`: of all its slots together."""
        self._blocks: dict[int, float] = {}
        """block → when it was used last, the longest unused first"""
        self._limit = _limit(context_tokens)

    def __len__(self) -> int:
        return len(self._blocks)

    def hits(self, blocks: Sequence[int], now: float) -> int:
        """How many of a prompt's leading blocks are there at `now` (monotonic seconds). Changes nothing."""
        known, since = self._blocks, now - EXPIRY_S
        for count, block in enumerate(blocks):
            if known.get(block, since) <= since:
                return count
        return len(blocks)

    def used(self, blocks: Sequence[int], now: float) -> list[int]:
        """A prompt with these blocks went there at `now`; returns those that were not there before.

        Its end is the first to go: without its beginning a block is worth nothing.
        """
        known, since = self._blocks, now - EXPIRY_S
        fresh = []
        for block in reversed(blocks):
            if known.pop(block, since) <= since:
                fresh.append(block)
            known[block] = now
        while known and (len(known) > self._limit or known[next(iter(known))] <= since):
            del known[next(iter(known))]
        return fresh

    def forget(self, blocks: Sequence[int]) -> None:
        """These did not get there after all."""
        for block in blocks:
            self._blocks.pop(block, None)

    def clear(self) -> None:
        self._blocks.clear()

    def resize(self, context_tokens: int) -> None:
        """The cache was laid out anew: nothing of it is left."""
        self._blocks.clear()
        self._limit = _limit(context_tokens)


def _limit(context_tokens: int) -> int:
    return min(max(1, context_tokens // BLOCK_TOKENS), MAX_CACHED_BLOCKS)
