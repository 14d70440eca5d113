"""The data plane: the only room that moves request bytes.

Start with `exchange.py` (the life of one request, phase by phase), then `listener.py` (bytes from callers, and the
table of who serves what), `relay.py` (the streaming copy) and `guarded.py` (everything that is not `/v1/`, at a message
boundary, on the same port). `plane.py` holds what all requests share.

Callbacks, not tasks: an exchange is an object that the listener, the recorder and the upstream call into.
Never: SQL, templates, admin code, a framework, a wait for the database.
"""
