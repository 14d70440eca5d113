"""Proof by fakes: a provider that misbehaves on command, what an honest gateway must do about it, and who does.

In here: `provider.py` (a raw asyncio server that speaks the OpenAI API, records byte for byte what it saw, and fails in
the way the model's name asks for), `call.py` (the pen that writes one answer, well or badly), `answers.py` (canonical
bodies and events) and `faults/` (the catalogue: name → what the provider does → what the caller must get); `engines.py`
(a fake provider that, asked who it is, answers as a local engine of a given kind); `node.py` (a fake machine that dials
a gateway, and forges, cuts and stalls) with `node_plays.py` (how it answers); for the other side `caller.py` (a raw
caller that keeps every byte) and `process.py` (a real gateway as a child process).
The score card of any gateway: `cases.py` (its lines) → `score.py` (plays them) with `asking.py` (one call) →
`observation.py` (what was seen) → `judging.py` (what is wrong with it); `gateways.py` (configurations to measure with),
`display.py` (the card). Shipped with the package: tests and the smoke list use the same fakes.
Never: a web framework or an HTTP library, which would refuse to misbehave; anything imported by the serving gateway.
Start with `faults/catalogue.py` for the table's form, then `provider.py`.

    async with FakeProvider() as fake:                       # in a test
        ...  # point a provider at fake.base_url, call model "cut-between-chunks", look at fake.requests
    python -m potluck.conformance.provider --port 9001       # on its own
    python -m potluck.conformance --url http://127.0.0.1:7171 --key $KEY     # the score card
"""
