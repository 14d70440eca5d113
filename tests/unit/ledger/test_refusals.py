"""Refused calls are counted, not listed."""

from potluck.ledger.refusals import MAX_PER_MINUTE, MAX_REASONS, Refusals
from potluck.model.usage import RefusalCount

MINUTE = 29_800_000
AT_MS = MINUTE * 60_000


def test_counts_per_reason_caller_and_minute() -> None:
    """Calls of one reason, caller and minute become one line, with the time and the words of the first."""
    refusals = Refusals()
    refusals.add("invalid_api_key", "10.0.0.0/24", AT_MS + 5, "no such key")
    refusals.add("invalid_api_key", "10.0.0.0/24", AT_MS + 9, "another text")
    refusals.add("request_too_large", "key_1", AT_MS + 7, "33 MiB")
    assert refusals.take() == [
        RefusalCount("invalid_api_key", "10.0.0.0/24", MINUTE, 2, AT_MS + 5, "no such key"),
        RefusalCount("request_too_large", "key_1", MINUTE, 1, AT_MS + 7, "33 MiB"),
    ]
    assert refusals.take() == []


def test_later_lines_of_a_minute_add_only_their_count() -> None:
    """What was taken once is not counted again, and the first one's words are not repeated."""
    refusals = Refusals()
    refusals.add("invalid_api_key", "a", AT_MS, "first")
    refusals.take()
    refusals.add("invalid_api_key", "a", AT_MS + 1, "second")
    assert refusals.take() == [RefusalCount("invalid_api_key", "a", MINUTE, 1)]


def test_a_new_minute_begins_anew() -> None:
    """The next minute has its own first one; what the last minute still held is not lost."""
    refusals = Refusals()
    refusals.add("invalid_api_key", "a", AT_MS, "first")
    refusals.add("invalid_api_key", "a", AT_MS + 60_000, "later")
    assert refusals.take() == [
        RefusalCount("invalid_api_key", "a", MINUTE, 1, AT_MS, "first"),
        RefusalCount("invalid_api_key", "a", MINUTE + 1, 1, AT_MS + 60_000, "later"),
    ]


def test_a_flood_is_bounded_and_counted() -> None:
    """A flood from a hundred thousand addresses with endless texts takes a bounded number of lines, none uncounted."""
    refusals = Refusals()
    for n in range(100_000):
        refusals.add("invalid_api_key", f"address-{n}", AT_MS + n % 60_000, "x" * 10_000)
    for n in range(1000):
        refusals.add(f"reason-{n}", "somebody", AT_MS, "")
    lines = refusals.take()
    assert sum(each.count for each in lines) == 101_000
    assert len(lines) <= MAX_PER_MINUTE + MAX_REASONS + 1
    assert max(len(each.detail) for each in lines) <= 200
    by_who = {(each.reason, each.who): each.count for each in lines}
    assert by_who["invalid_api_key", "*"] == 100_000 - MAX_PER_MINUTE


def test_a_flood_stays_bounded_across_takes() -> None:
    """Taking the counts every few seconds does not open the bound of a minute again."""
    refusals = Refusals()
    total = 0
    for round_ in range(10):
        for n in range(1000):
            refusals.add("invalid_api_key", f"address-{round_}-{n}", AT_MS, "")
        total += len(refusals.take())
    assert total <= MAX_PER_MINUTE + 10
