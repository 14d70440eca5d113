"""Public API dialects: what a request means, what an answer says. For now OpenAI's, as callers and targets speak it.

In here: `envelope.py` (a request body, decoded once into the members that routing, limits and records need; the rest
stays raw) and `controls.py` (its `potluck` member); `usage.py` (every way in which usage is spelt), `answer.py` (a
whole JSON answer), `stream.py` (a streamed one, chunk by chunk), `openai_models.py` (`GET /v1/models`).
Never: a decision about targets, money or retries; the clock; I/O. Nothing here needs a member to be known: unknown ones
pass through untouched.
Start with `envelope.py`.
"""
