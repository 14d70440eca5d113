"""Logs and metrics of the gateway.

In here: `logs` (structlog and the standard library through one handler, secrets masked, never blocking the loop),
`masking` (what a secret looks like in a line), `meter` (the data plane's counters: plain integer adds) and `exposition`
(those and the gauges as Prometheus text).
Never: prompts, answers, keys; anything that waits on a network; a label whose values a caller can invent.
Start with `meter.py`; `docs/reference/metrics.md` lists what comes out.
"""
