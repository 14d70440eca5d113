"""Beginnings of prompts: equal ones have equal blocks, and a machine has what it was sent of late."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.policy.prefix_blocks import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    EXPIRY_S,
    MAX_BLOCKS,
    MAX_CACHED_BLOCKS,
    PrefixBlocks,
    blocks_of,
)

texts = st.binary(max_size=6 * BLOCK_BYTES)


@given(texts, texts, texts)
def test_prompts_share_as_many_blocks_as_they_share_whole_blocks_of_text(same: bytes, one: bytes, other: bytes) -> None:
    """The number of equal leading blocks is that of the text's, and no later block is equal."""
    first, second = same + one, same + other
    common = 0
    while common < min(len(first), len(second)) // BLOCK_BYTES:
        cut = slice(0, (common + 1) * BLOCK_BYTES)
        if first[cut] != second[cut]:
            break
        common += 1
    pairs = list(zip(blocks_of("p", first), blocks_of("p", second), strict=False))
    assert [left == right for left, right in pairs] == [True] * common + [False] * (len(pairs) - common)


def test_only_whole_blocks_have_a_number() -> None:
    """What is unfinished will be another block when the conversation goes on."""
    assert blocks_of("p", b"x" * (BLOCK_BYTES - 1)) == ()
    assert len(blocks_of("p", b"x" * (2 * BLOCK_BYTES + 5))) == 2
    assert len(blocks_of("p", b"x" * (MAX_BLOCKS + 3) * BLOCK_BYTES)) == MAX_BLOCKS


def test_another_project_or_other_tools_make_another_prompt() -> None:
    """Equal text behind another seed is found nowhere."""
    text = b"x" * BLOCK_BYTES
    assert blocks_of(("prj_1", None), text) != blocks_of(("prj_2", None), text)
    assert blocks_of(("prj_1", None), text) != blocks_of(("prj_1", b"[]"), text)


def test_a_machine_has_what_it_was_sent_until_it_expires() -> None:
    """Leading blocks count up to the first that is not there; looking renews nothing."""
    cache = PrefixBlocks(100 * BLOCK_TOKENS)
    assert cache.used((1, 2, 3), 0.0) == [3, 2, 1]
    assert cache.hits((1, 2, 9, 3), 1.0) == 2
    assert cache.used((1, 2), EXPIRY_S - 1) == []
    assert cache.hits((1, 2, 3), EXPIRY_S + 1) == 2
    assert cache.hits((1, 2, 3), 2 * EXPIRY_S) == 0


def test_the_end_of_the_longest_unused_prompt_goes_first() -> None:
    """A cache that is full keeps beginnings: without its beginning a block is worth nothing."""
    cache = PrefixBlocks(4 * BLOCK_TOKENS)
    cache.used((1, 2, 3), 0.0)
    cache.used((7, 8), 1.0)
    assert (cache.hits((1, 2, 3), 2.0), cache.hits((7, 8), 2.0), len(cache)) == (2, 2, 4)
    cache.used((1, 2, 3, 4, 5), 3.0)
    assert (cache.hits((1, 2, 3, 4, 5), 4.0), cache.hits((7,), 4.0)) == (4, 0)


def test_what_did_not_get_there_is_forgotten() -> None:
    """A refused call leaves nothing behind but what was there before it."""
    cache = PrefixBlocks(100 * BLOCK_TOKENS)
    cache.used((1,), 0.0)
    cache.forget(cache.used((1, 2), 1.0))
    assert cache.hits((1, 2), 2.0) == 1
    cache.resize(50 * BLOCK_TOKENS)
    assert cache.hits((1,), 2.0) == 0


def test_what_has_expired_takes_no_room() -> None:
    """A machine that claims endless context holds what came in five minutes, and so many blocks at most."""
    cache = PrefixBlocks(10**12)
    cache.used(range(100), 0.0)
    cache.used((7_000,), EXPIRY_S + 1)
    assert len(cache) == 1
    cache.used(range(2 * MAX_CACHED_BLOCKS), EXPIRY_S + 2)
    assert len(cache) == MAX_CACHED_BLOCKS
