"""The gateway's end of node links: WebSockets from nodes in, `ports.Upstream` out.

Never: choosing among nodes (`policy`, `proxy`), money (`ledger`), storage (what a node is comes with the snapshot; what
it says leaves through `ports.NodeEvents`).
"""
