"""Whether a stranger's machine is believed when it says that the request is wrong (400, 413, 422).

A provider's word on that is final, and so is an own machine's: the request ends with it. A community node is a
stranger's, and one that says so to everything, fast, would end every request that it gets.

Rules
- It is believed while it has answered well at least once, and in its last `BELIEVED_IN_A_ROW` calls at most said so.
- In doubt the next target is asked. Only an answer from there proves it wrong, and only then is anything held against
  it: a caller who sends the same wrong request again and again takes no machine out of service.
- Where nothing else is left, its word is passed on as it is.
"""

BELIEVED_IN_A_ROW = 3
"""times that a node is believed since its last good answer"""


class Objections:
    """Of one model on one node. `good`: its good answers ever (`Breaker.good`)."""

    __slots__ = ("_good_then", "_row")

    def __init__(self) -> None:
        self._row = 0
        self._good_then = 0

    def believed(self, good: int) -> bool:
        """It objects to a request: whether its word ends that."""
        self._row = self._row + 1 if good == self._good_then else 1
        self._good_then = good
        return good > 0 and self._row <= BELIEVED_IN_A_ROW
