"""How fast a place answers, learned from live traffic: averages per prompt size, recent peaks, and p95s.

Each average counts the newest of n samples with a weight of `max(ALPHA, 2 / (n + 1), age / STALE_S)`, where `age` is
the time since the sample before: at first a mean in which later samples count for more, so that one bad early sample is
soon made up for; then a moving average; and after a silence of `STALE_S` the new sample alone. What was not measured is
unknown (`None`), which is never slow.
"""

from bisect import bisect_right
from math import exp, exp2

SIZE_CLASS_BYTES = (4 * 1024, 32 * 1024, 128 * 1024)
"""request bodies below these sizes make classes 0, 1 and 2; all others are class 3"""
SIZE_CLASSES = len(SIZE_CLASS_BYTES) + 1
ALPHA = 0.1
"""a step in speed is seen to two thirds after ten samples"""
_SETTLED = 2 / ALPHA - 1
"""samples after which `2 / (n + 1)` is no more than `ALPHA`"""
STALE_S = 600.0
PEAK_DECAY_S = 10.0
"""a peak's distance from the average falls to a third in this time, read or measured"""
MIN_P95_SAMPLES = 20
BUCKET_BOUNDS_MS = tuple(2.0 ** (step / 4) for step in range(1, 70))
"""of the histograms: four to the octave, up to two and a half minutes"""
HALVE_AT = 64
"""once a bucket holds this many samples all counts are halved, so that the last few hundred are what counts"""


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

    def add(self, ms: float, now: float) -> float:
        """Count one sample, taken at `now` (monotonic seconds); its weight in the average, 1 for the first."""
        self.samples = samples = self.samples + 1
        age_s = now - self.seen_s
        self.seen_s = now
        if samples == 1:
            self.ms = self.peak_ms = ms
            return 1.0
        weight = ALPHA if samples >= _SETTLED else 2 / (samples + 1)
        if age_s > weight * STALE_S:
            weight = age_s / STALE_S if age_s < STALE_S else 1.0
        self.ms = average = self.ms + weight * (ms - self.ms)
        peak = self.peak_ms
        if ms < peak and age_s > 0:
            peak = average + (peak - average) * exp(-age_s / PEAK_DECAY_S)
        self.peak_ms = max(ms, peak)
        return weight

    def faded_peak_ms(self, now: float) -> float:
        """The peak at `now`: what of its distance from the average is left."""
        age_s = now - self.seen_s
        if age_s <= 0:
            return self.peak_ms
        return self.ms + (self.peak_ms - self.ms) * exp(-age_s / PEAK_DECAY_S)


class Histogram:
    """The last few hundred times of one kind, in milliseconds."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0.0] * (len(BUCKET_BOUNDS_MS) + 1)

    def add(self, ms: float) -> None:
        bucket = bisect_right(BUCKET_BOUNDS_MS, ms)
        count = self._counts[bucket] + 1
        self._counts[bucket] = count
        if count >= HALVE_AT:
            self._counts = [count / 2 for count in self._counts]

    def p95_ms(self) -> float | None:
        """What 95 % of them are less than; None below `MIN_P95_SAMPLES`.

        Within a bucket the samples are taken to be spread evenly: it is at most a bucket, 19 %, off.
        """
        counted = sum(self._counts)
        if counted < MIN_P95_SAMPLES:
            return None
        slower = counted * 0.05
        bucket = len(BUCKET_BOUNDS_MS)
        for count in reversed(self._counts):
            if count >= slower:
                break
            slower -= count
            bucket -= 1
        return exp2((bucket + 1 - slower / count) / 4)


class Latency:
    """What is known of one place's speed. One event loop's; every time in milliseconds, `now` in monotonic seconds."""

    __slots__ = ("_first_tokens", "_wholes", "first_token", "ms_per_token", "whole")

    def __init__(self) -> None:
        self.first_token = tuple(Average() for _ in range(SIZE_CLASSES))
        """until the first content of streams, by size class"""
        self.whole = tuple(Average() for _ in range(SIZE_CLASSES))
        """until the last byte of plain answers, by size class"""
        self.ms_per_token = 0.0
        """between the tokens of streams, of every size; 0: not known"""
        self._first_tokens = Histogram()
        self._wholes = Histogram()

    def observe_stream(self, size_class: int, first_ms: float, ms_per_token: float, now: float) -> None:
        """A stream that gave content. `ms_per_token` 0: it was too short to tell."""
        weight = self.first_token[size_class].add(first_ms, now)
        if ms_per_token:
            known = self.ms_per_token
            if not known:
                self.ms_per_token = ms_per_token
            else:
                if weight > 0.5:  # all size classes share it: the first sample of one does not outweigh the others
                    weight = 0.5
                self.ms_per_token = known + weight * (ms_per_token - known)
        self._first_tokens.add(first_ms)

    def observe_plain(self, size_class: int, whole_ms: float, now: float) -> None:
        """A plain answer that came whole."""
        self.whole[size_class].add(whole_ms, now)
        self._wholes.add(whole_ms)

    def expected_ms(self, stream: bool, size_class: int, output_tokens: float) -> float | None:
        """Until the last token of an answer of `output_tokens`, in a stream or plain; None: nothing is known.

        A size class without samples is taken for its nearest neighbour, the smaller one first; then the other kind of
        answer is asked.
        """
        if stream:
            first = self.first_token[size_class]
            if first.samples:
                return first.ms + output_tokens * self.ms_per_token
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
                return near.ms + (output_tokens * self.ms_per_token if averages is self.first_token else 0.0)
        return None

    def peak_ms(self, stream: bool, size_class: int, now: float) -> float | None:
        """The slowest of late (first token, or whole plain answer), as far as it has not faded; None: no samples."""
        average = (self.first_token if stream else self.whole)[size_class]
        return average.faded_peak_ms(now) if average.samples else None

    def p95_ms(self, stream: bool) -> float | None:
        """What 95 % of the first tokens, or of the whole plain answers, are faster than, over all sizes; None: not
        known yet. One says nothing of the other: a plain answer takes as long as all its tokens.
        """
        return (self._first_tokens if stream else self._wholes).p95_ms()
