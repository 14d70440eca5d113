"""Perfect knowledge of the present: what the others are measured against.

For each arrival, of all machines that would take it, the one where its last token truly comes first. It knows true
speeds, the length of this and of every running answer, every queue, memory and cache, and who is broken or has its
owner back. It does not know what arrives next, nor who goes away next, and it thinks of one request at a time: it is no
lower bound, and a policy may be better. It has no heartbeats to wait for and nothing to learn.
"""

from bench.fleet.arrivals import Request
from bench.fleet.physics import Box, Job
from bench.fleet.sight import Prompt, Report


class Oracle:
    """Implements `sight.Scheduler`, with the machines themselves in hand."""

    def __init__(self, boxes: dict[str, Box], requests: list[Request]) -> None:
        self._boxes = boxes
        self._requests = requests
        self._away: dict[str, str] = {}

    def joined(self, box: str, models: tuple[str, ...], now: float) -> None:
        self._away[box] = ""

    def away(self, box: str, reason: str, now: float) -> None:
        self._away[box] = reason

    def report(self, report: Report, now: float) -> None:
        pass

    def pick(self, prompt: Prompt, tried: list[str], now: float) -> str | None:
        request = self._requests[prompt.number]
        best, best_s = None, float("inf")
        for name, reason in self._away.items():
            box = self._boxes[name]
            if reason or name in tried or box.kind.broken or prompt.model not in box.kind.models:
                continue
            if box.refusal():
                continue
            done_s = box.foresee(Job(-1, request), now)[1] + box.kind.rtt_ms / 1000
            if done_s < best_s:
                best, best_s = name, done_s
        return best

    def begin(self, box: str, prompt: Prompt, now: float) -> "OracleCall":
        return OracleCall()


class OracleCall:
    """Implements `sight.Call`: there is nothing to learn."""

    def first_token(self, now: float) -> None:
        pass

    def end(self, output_tokens: int, now: float) -> None:
        pass

    def refused(self, now: float) -> None:
        pass

    def failed(self, now: float, slow: bool) -> None:
        pass
