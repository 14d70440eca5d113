"""The catalogue of faults, one module per kind; importing this fills `FAULTS`.

`good` (behaviour that is unusual but right, and must be passed on as a good answer), `refusals` (error statuses),
`ends` (resets, cuts, stalls), `bodies` (answers that are whole but worthless), `streams` (event streams that break the
form), `framing` (HTTP that breaks the rules or poisons a pool).
"""

from potluck.conformance.faults import bodies, ends, framing, good, refusals, streams
from potluck.conformance.faults.catalogue import FAULTS, Expect, Fault, Play

__all__ = ["FAULTS", "Expect", "Fault", "Play", "bodies", "ends", "framing", "good", "refusals", "streams"]
