"""Where prompts with the same beginning go."""

from potluck.policy.affinity import PREFIX_BYTES, PrefixIndex, prefix_of


def test_a_prefix_is_the_beginning_of_a_prompt() -> None:
    """What comes after `PREFIX_BYTES` makes no difference; a byte before does, and so do the project and the model."""
    beginning = b'[{"role":"system","content":"' + b"x" * (PREFIX_BYTES - 29)
    assert len(beginning) == PREFIX_BYTES
    assert prefix_of("prj_1", "small", beginning + b"one") == prefix_of("prj_1", "small", beginning + b"two")
    assert prefix_of("prj_1", "small", beginning[:-1] + b"y") != prefix_of("prj_1", "small", beginning)
    assert prefix_of("prj_2", "small", beginning) != prefix_of("prj_1", "small", beginning)
    assert prefix_of("prj_1", "large", beginning) != prefix_of("prj_1", "small", beginning)


def test_a_prefix_is_warm_where_it_was_used_last() -> None:
    """The last place that answered it is found, for the window and no longer."""
    index = PrefixIndex()
    assert index.find(1, 0.0) is None
    index.used(1, "a", 0.0, 600.0)
    assert index.find(1, 599.9) == "a"
    index.used(1, "b", 599.9, 600.0)
    assert index.find(1, 1_199.0) == "b"
    assert index.find(1, 1_199.9) is None
    assert len(index) == 0, "what has expired is not kept"


def test_the_index_is_bounded_by_last_use() -> None:
    """With all room taken, the prefix that was used longest ago makes way, and only for a new one."""
    index = PrefixIndex(limit=3)
    for prefix in (1, 2, 3):
        index.used(prefix, "a", float(prefix), 600.0)
    index.used(1, "a", 4.0, 600.0)
    index.used(4, "a", 5.0, 600.0)
    assert [index.find(prefix, 6.0) for prefix in (1, 2, 3, 4)] == ["a", None, "a", "a"]
    for n in range(100, 10_000):
        index.used(n, "a", 7.0, 600.0)
    assert len(index) == 3
