"""Pure decisions and estimators: what to do, given what is known. Time and randomness are passed in.

In here, by what it answers:
- which target: `selection.py` (the strategies), from `standing.py` (a place's live state), `latency.py` (its speed),
  `mix.py` (what a request is expected to cost there) and `affinity.py` (where a prompt's beginning is cached);
- which of several machines of people: `machine_choice.py`, from `machines.py` (the live estimate of one, with
  `machine_cost.py`, what it is asked and what that would take), `calibration.py` (medians of samples) and
  `prefix_blocks.py` (what it has cached);
- whether a second one is asked beside it: `hedging.py`;
- which to leave alone: `breaker.py` (a target by a key), `credentials.py` (keys that are parked or dead);
- what to ask on purpose, and what that may cost: `probing.py`;
- what after a failure, and whose fault it was: `retry.py`, `retry_after.py`;
- how many tokens where a target gives none: `estimate.py`.

Expected outcomes are values, not exceptions.
Never: I/O of any kind, a clock, a random source, logging. State lives in the plain objects defined here and is owned
by the caller; all of it on one event loop, so without locks.
"""
