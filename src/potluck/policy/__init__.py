"""Pure decisions and estimators: what to do, given what is known. Time and randomness are passed in.

In here, by what it answers:
- which target: `selection.py`, from `standing.py`, `latency.py`, `mix.py` and `affinity.py`; `hedging.py` for a second;
- which of them to leave alone: `breaker.py` (targets), `credentials.py` (keys that are parked or dead);
- what after a failure: `retry.py`, `retry_after.py`;
- how many tokens where a target gives none: `estimate.py`.

Expected outcomes are values, not exceptions.
Never: I/O of any kind, a clock, a random source, logging. State lives in the plain objects defined here and is owned
by the caller; all of it on one event loop, so without locks.
"""
