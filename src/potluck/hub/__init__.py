"""The gateway's end of node links: WebSockets from nodes in, `ports.Upstream` out.

In here: `socket.py` (bytes of one connection), `session.py` (one link: the protocol's core, and what its events ask
for), `node.py` (a machine: its links, jobs and queue), `call.py` (one call over them), `links.py` (the whole).
Never: choosing among nodes (`policy`, `proxy`), money (`ledger`), storage (what a node is comes with the snapshot; what
it says leaves through `ports.NodeEvents`). Start with `links.py`; the protocol is `wire/link.py`'s.
"""
