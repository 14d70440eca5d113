"""The admin REST API and what stands beside it: a Litestar application over `operations`.

In here: `app` (the application), `edge` (request ids, response headers), `auth` (who calls; deny by default),
`problems` (errors as RFC 9457), `bodies` (what callers send), one module per group of routes, `reference` (the API's
reference page, rendered from its OpenAPI document). Handlers read, call an operation, and answer; rules are in
`operations`.
Never: SQL on the event loop, an answer that names another organisation's object, a route without a guard.
"""
