"""Fuzz the event reader: any bytes, in any pieces, give the same events or `SseError`, and nothing else.

Run `python fuzz/sse_reader.py [seconds] [seed]` (default 60 s, a random seed, which is printed). A finding is printed
with the pieces that reproduce it, and the exit status is 1.
"""

import random
import sys
import time

from potluck.wire.sse import SseError, SseReader

FRAGMENTS = (
    b"data: ", b"data:", b"data", b"event: ", b"event:", b"id: 1", b"retry: 3", b":", b": ping", b"\n", b"\n\n", b"\r",
    b"\r\n", b"\r\n\r\n", b"\r\r", b"\xef\xbb\xbf", b"\xef", b"[DONE]", b'{"a":1}', b'{"a":', b"[" * 64, b"\x00",
    b"\xff", b"x" * 70, b" ", b"data: {}\n\n", b"data: {}\n\ndata: {}\n\n",
)  # fmt: skip


def stream(rng: random.Random) -> bytes:
    """A random stream out of what matters to the grammar, sometimes with bytes flipped."""
    data = bytearray(b"".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 40))))
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def run(pieces: list[bytes], limit: int) -> list[tuple[bytes, bytes]] | None:
    """The events of all pieces and of the end, or None where the reader refused."""
    reader = SseReader(limit)
    try:
        events = [event for piece in pieces for event in reader.feed(piece)]
        return events + reader.close()
    except SseError:
        return None


def main(seconds: float, seed: int) -> int:
    rng = random.Random(seed)
    deadline, runs = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        data, limit = stream(rng), rng.choice((16, 64, 8 << 20))
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(8)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        try:
            outcomes = [run(each, limit) for each in (pieces, [data], [data[at : at + 1] for at in range(len(data))])]
            assert outcomes[0] == outcomes[1] == outcomes[2], outcomes
        except Exception as error:
            print(f"{type(error).__name__}: {error}\nseed {seed}, run {runs}, limit {limit}, pieces {pieces!r}")
            return 1
        runs += 1
    print(f"{runs} streams, seed {seed}: nothing found")
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(
        main(
            float(arguments[0]) if arguments else 60.0,
            int(arguments[1]) if len(arguments) > 1 else random.SystemRandom().randrange(1 << 32),
        )
    )
