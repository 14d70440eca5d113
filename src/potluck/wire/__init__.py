"""Bytes ⇄ typed events: HTTP/1.1 heads, server-sent events, public API dialects, error envelopes, the node link.

In here: pure functions and small state machines that are fed bytes and give back values. `http1.py` holds the framing
rules, `sse.py` the event-stream reader and writer, `errors.py` the one table of error codes, `dialects/` one module
per public API (what a request means, what an answer says). `link.py` is the state machine of the link between a node
and a gateway, with its frames, messages, handshake, events and jobs in `link_….py`.
Never: asyncio, sockets, clock, database, logging. Input of any kind gives a value or one of the room's own exceptions
(`SseError`, `RequestError`, `MalformedAnswer`), nothing else.
Start with `dialects/envelope.py` (a request) and `dialects/stream.py` (its streamed answer).
"""
