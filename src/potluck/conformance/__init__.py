"""Proof by fakes: a provider that misbehaves on command, and the table of what an honest gateway must do about it.

In here: `provider.py` (a raw asyncio server that speaks the OpenAI API, records byte for byte what it saw, and fails in
the way the model's name asks for), `call.py` (the pen that writes one answer, well or badly), `answers.py` (canonical
bodies and events) and `faults/` (the catalogue: name → what the provider does → what the caller must get); for the
other side `caller.py` (a raw caller that keeps every byte) and `process.py` (a real gateway as a child process).
Shipped with the package: the tests, the smoke list and the failover score card all use the same fakes.
Never: a web framework or an HTTP library, which would refuse to misbehave; anything imported by the serving gateway.
Start with `faults/catalogue.py` for the table's form, then `provider.py`.

    async with FakeProvider() as fake:                       # in a test
        ...  # point a provider at fake.base_url, call model "cut-between-chunks", look at fake.requests
    python -m potluck.conformance.provider --port 9001       # on its own
"""
