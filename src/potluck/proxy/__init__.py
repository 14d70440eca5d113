"""The data plane: the only room that moves request bytes.

Start with `exchange.py`, the life of one request, phase by phase. In here, by what it does:
- bytes from callers: `listener.py` (and the table of who serves what), `own_answers.py` (`/v1/` without an upstream),
  `guarded.py` (everything that is not `/v1/`, at a message boundary, on the same port), `limits.py`;
- which target is called: `routing.py` (the first call, the next one), among `candidates.py` (who may serve a kind of
  request), from `names.py` (what a model name stands for), `filters.py` (who may not serve it) and `registry.py` (how
  targets and keys stand right now);
- the call: `attempt.py` (one upstream call), `relay.py` (the streaming copy);
- what is told: `answers.py` (heads), `verdict.py` (fields and errors), `record.py` (the usage record), `explain.py`
  (a decision as data), `rehearsal.py` (a request's way, without sending it);
- what all requests share: `plane.py`.

Callbacks, not tasks: an exchange is an object that the listener, the recorder and the upstream call into.
Never: SQL, templates, admin code, a framework, a wait for the database.
"""
