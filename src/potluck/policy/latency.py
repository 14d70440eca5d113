"""How fast a place answers, learned from live traffic: averages per prompt size, recent peaks, and a p95.

Each average counts the newest sample with a weight of `max(ALPHA, 1 / samples, age / STALE_S)`, where `age` is the time
since the sample before: a plain mean at first, so that one bad early sample is soon made up for; then a moving average;
and after a silence of `STALE_S` the new sample alone. Unknown is never slow: what was not measured says so (`None`).
"""

from math import exp, frexp

SIZE_CLASS_BYTES = (4 * 1024, 32 * 1024, 128 * 1024)
"""request bodies below these sizes make classes 0, 1 and 2; all others are class 3"""
SIZE_CLASSES = len(SIZE_CLASS_BYTES) + 1
ALPHA = 0.1
"""a step in speed is seen to two thirds after ten samples"""
STALE_S = 600.0
PEAK_DECAY_S = 10.0
"""a peak's distance from the average falls to a third in this time, read or measured"""
MIN_P95_SAMPLES = 20
HALVE_AT = 512
"""once the histogram holds this many samples all its counts are halved: the last few hundred are what counts"""
_BUCKETS = 88
"""four to the octave, from 1 ms to 70 minutes"""


def size_class(body_bytes: int) -> int:
    """The prompt-size class of a request body: 0 to `SIZE_CLASSES - 1`."""
    small, medium, large = SIZE_CLASS_BYTES
    if body_bytes < medium:
        return 0 if body_bytes < small else 1
    return 2 if body_bytes < large else 3


class Average:
    """A moving average of milliseconds, and its recent peak. `samples` 0: nothing is known."""

    __slots__ = ("ms", "peak_ms", "samples", "seen_s")

    def __init__(self) -> None:
        self.ms = 0.0
        self.peak_ms = 0.0
        """as it was at `seen_s`"""
        self.samples = 0
        self.seen_s = 0.0
        """monotonic seconds of the last sample"""

    def add(self, ms: float, now: float) -> None:
        """Count one sample, taken at `now` (monotonic seconds)."""
        self.samples = samples = self.samples + 1
        age_s = now - self.seen_s
        self.seen_s = now
        if samples == 1:
            self.ms = self.peak_ms = ms
            return
        weight = ALPHA if samples * ALPHA > 1 else 1 / samples
        if age_s > weight * STALE_S:
            weight = age_s / STALE_S if age_s < STALE_S else 1.0
        self.ms = average = self.ms + weight * (ms - self.ms)
        peak = self.peak_ms
        if ms >= peak:
            self.peak_ms = ms
        else:
            self.peak_ms = average + (peak - average) * exp(-age_s / PEAK_DECAY_S)

    def faded_peak_ms(self, now: float) -> float:
        """The peak at `now`: what of its distance from the average is left."""
        age_s = now - self.seen_s
        if age_s <= 0:
            return self.peak_ms
        return self.ms + (self.peak_ms - self.ms) * exp(-age_s / PEAK_DECAY_S)


class Latency:
    """What is known of one place's speed. One event loop's; every time in milliseconds, `now` in monotonic seconds."""

    __slots__ = ("_counted", "_counts", "first_token", "per_token", "whole")

    def __init__(self) -> None:
        self.first_token = tuple(Average() for _ in range(SIZE_CLASSES))
        """until the first content of streams, by size class"""
        self.whole = tuple(Average() for _ in range(SIZE_CLASSES))
        """until the last byte of plain answers, by size class"""
        self.per_token = Average()
        """between the tokens of streams, of every size"""
        self._counts = [0.0] * _BUCKETS
        self._counted = 0.0

    def observe_stream(self, size_class: int, first_ms: float, ms_per_token: float, now: float) -> None:
        """A stream that gave content. `ms_per_token` 0: it was too short to tell."""
        self.first_token[size_class].add(first_ms, now)
        if ms_per_token:
            self.per_token.add(ms_per_token, now)
        mantissa, octave = frexp(first_ms)
        bucket = (octave - 1) * 4 + int(mantissa * 8) - 4
        self._counts[0 if bucket < 0 else bucket if bucket < _BUCKETS else -1] += 1
        self._counted += 1
        if self._counted >= HALVE_AT:
            self._counts = [count / 2 for count in self._counts]
            self._counted /= 2

    def observe_plain(self, size_class: int, whole_ms: float, now: float) -> None:
        """A plain answer that came whole."""
        self.whole[size_class].add(whole_ms, now)

    def expected_ms(self, stream: bool, size_class: int, output_tokens: float) -> float | None:
        """Until the last token of an answer of `output_tokens`, in a stream or plain; None: nothing is known.

        A size class without samples is taken for its nearest neighbour, the smaller one first; then the other kind of
        answer is asked.
        """
        if stream:
            first = self.first_token[size_class]
            if first.samples:
                return first.ms + output_tokens * self.per_token.ms
        else:
            whole = self.whole[size_class]
            if whole.samples:
                return whole.ms
        return self._nearby_ms(stream, size_class, output_tokens)

    def _nearby_ms(self, stream: bool, size_class: int, output_tokens: float) -> float | None:
        for averages in (self.first_token, self.whole) if stream else (self.whole, self.first_token):
            known = [near for near in range(SIZE_CLASSES) if averages[near].samples]
            if known:
                near = averages[min(known, key=lambda other: abs(other - size_class))]
                return near.ms + (output_tokens * self.per_token.ms if averages is self.first_token else 0.0)
        return None

    def peak_ms(self, stream: bool, size_class: int, now: float) -> float | None:
        """The slowest of late (first token, or whole plain answer), as far as it has not faded; None: no samples."""
        average = (self.first_token if stream else self.whole)[size_class]
        return average.faded_peak_ms(now) if average.samples else None

    def p95_ms(self) -> float | None:
        """What 95 % of the first tokens are faster than, over all sizes; None below `MIN_P95_SAMPLES`.

        Within 12 % of the exact one if the samples in a bucket are spread evenly.
        """
        if self._counted < MIN_P95_SAMPLES:
            return None
        slower = self._counted * 0.05
        bucket = _BUCKETS
        while bucket:
            bucket -= 1
            count = self._counts[bucket]
            if count >= slower:
                octave, quarter = divmod(bucket, 4)
                return float(2**octave) * (1 + (quarter + 1 - slower / count) / 4)
            slower -= count
        return None
