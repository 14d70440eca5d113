"""Adapters, one per upstream dialect: build the request heads, map statuses, read error bodies. Pure translation.

In here: `base_url.py` (what a provider's base URL may be), `openai.py` (every OpenAI-compatible target), `quirks.py`
(known departures from the dialect, by host), `scrub.py` (what an upstream's error text must lose before a caller sees
it).
Never: sockets, stored objects, decisions about retries. A secret goes into a head and nowhere else.
Start with `openai.py`.
"""
