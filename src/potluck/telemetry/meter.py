"""The data plane's counters: dictionaries of integers and fixed buckets, added to on the loop, read at a scrape.

Labels stay bounded: the model is named only for requests that reached a target (a model of the configuration, not
whatever a caller wrote), and beyond `MAX_CELLS` combinations new ones are counted under `other`.
"""

from bisect import bisect_left

from potluck.model.usage import ErrorClass, UsageRecord

MAX_CELLS = 20_000
OTHER = "other"

DURATION_BOUNDS_US = tuple(
    int(bound_s * 1_000_000)
    for bound_s in (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
)
FIRST_CONTENT_BOUNDS_US = tuple(
    int(bound_s * 1_000_000) for bound_s in (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
)
OVERHEAD_BOUNDS_US = (25, 50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 102_400)

CellKey = tuple[str, str, str, str, int]
"""endpoint, model, target, outcome, status"""


class Cell:
    """What one kind of request added up to. Histograms: one count per bucket (the last: above all), not cumulated."""

    __slots__ = (
        "audio_tokens",
        "cache_write_tokens",
        "cached_tokens",
        "cost_nanousd",
        "duration",
        "duration_us",
        "first_content",
        "first_content_us",
        "input_tokens",
        "output_tokens",
        "overhead",
        "overhead_us",
        "reasoning_tokens",
        "request_bytes",
        "requests",
        "response_bytes",
        "streams",
        "unpriced",
    )

    def __init__(self) -> None:
        self.requests = self.streams = 0
        self.input_tokens = self.output_tokens = self.cached_tokens = self.cache_write_tokens = 0
        self.reasoning_tokens = self.audio_tokens = 0
        self.cost_nanousd = self.unpriced = 0
        self.request_bytes = self.response_bytes = 0
        self.duration = [0] * (len(DURATION_BOUNDS_US) + 1)
        self.duration_us = 0
        self.first_content = [0] * (len(FIRST_CONTENT_BOUNDS_US) + 1)
        self.first_content_us = 0
        self.overhead = [0] * (len(OVERHEAD_BOUNDS_US) + 1)
        self.overhead_us = 0


class DataPlaneMeter:
    """Implements `ports.Meter`. Everything it holds only grows; `exposition` reads it."""

    def __init__(self) -> None:
        self.cells: dict[CellKey, Cell] = {}
        self.attempts: dict[tuple[str, ErrorClass], int] = {}
        """(target, error class) → upstream calls that did not answer; each `ok` request is one more that did"""
        self.refusals: dict[str, int] = {}
        """error code → calls answered without being admitted"""

    def request(self, record: UsageRecord) -> None:
        key = (record.endpoint, record.model if record.target_id else "", record.target, record.outcome, record.status)
        cell = self.cells.get(key)
        if cell is None:
            cell = self._new_cell(key)
        cell.requests += 1
        if record.stream:
            cell.streams += 1
            first_us = record.first_content_us
            if first_us >= 0:
                cell.first_content_us += first_us
                cell.first_content[bisect_left(FIRST_CONTENT_BOUNDS_US, first_us)] += 1
        usage = record.usage
        if usage is not None:
            cell.input_tokens += usage.input_tokens
            cell.output_tokens += usage.output_tokens
            if usage.cached_input_tokens or usage.reasoning_tokens or usage.cache_write_tokens:
                cell.cached_tokens += usage.cached_input_tokens
                cell.cache_write_tokens += usage.cache_write_tokens
                cell.reasoning_tokens += usage.reasoning_tokens
            if usage.audio_input_tokens or usage.audio_output_tokens:
                cell.audio_tokens += usage.audio_input_tokens + usage.audio_output_tokens
        cost = record.cost_nanousd
        if cost:
            cell.cost_nanousd += cost
        elif cost is None and usage is not None and record.target_id:
            cell.unpriced += 1
        cell.request_bytes += record.request_bytes
        cell.response_bytes += record.response_bytes
        total_us, overhead_us = record.total_us, record.overhead_us
        cell.duration_us += total_us
        cell.duration[bisect_left(DURATION_BOUNDS_US, total_us)] += 1
        cell.overhead_us += overhead_us
        cell.overhead[bisect_left(OVERHEAD_BOUNDS_US, overhead_us)] += 1
        if record.attempts:
            self._count_failed(record)

    def _count_failed(self, record: UsageRecord) -> None:
        attempts = self.attempts
        for attempt in record.attempts:
            pair = (attempt.target, attempt.error_class)
            if pair in attempts:
                attempts[pair] += 1
            else:
                self._new_attempt(pair)

    def refused(self, code: str) -> None:
        """A call was answered with `code` before it was admitted."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def _new_cell(self, key: CellKey) -> Cell:
        if len(self.cells) >= MAX_CELLS:
            key = (key[0], OTHER, OTHER, key[3], key[4])
            found = self.cells.get(key)
            if found is not None:
                return found
        cell = self.cells[key] = Cell()
        return cell

    def _new_attempt(self, pair: tuple[str, ErrorClass]) -> None:
        if len(self.attempts) >= MAX_CELLS:
            pair = (OTHER, pair[1])
        self.attempts[pair] = self.attempts.get(pair, 0) + 1
