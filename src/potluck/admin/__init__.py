"""The admin API on top of *operations*, first start, health, metrics, and the API reference.

In here: `operations/` (validate → write → audit → bump the version, one transaction each; REST, `config apply` and
first start all call them), `rest/` (the Litestar application over them), `apply` (a `potluck.toml` made so),
`first_start`, `control` (what an operation runs on). Never: request bytes of the data plane, or a secret in an answer
other than the one that makes it.

    lines = first_start.first_start(store, env, local_model=True)    # -> FirstStart(vault, lines, ...)
    app = app.create_app(Deps(...))                                  # ASGI; import it after the data plane listens

Routes under `/api/v1`, bearer `pla-…`; `{ref}` is an id or a name; lists answer `{"data": [...], "next_cursor"}`:

    keys        GET POST; {ref} GET PATCH; {ref}/rotate POST {overlap_s}; {ref}/revoke POST. Made: {..., "secret"}
    projects    GET POST; {ref} GET PATCH DELETE
    providers   GET POST {name, base_url, dialect, own, key?}; {ref} GET PATCH DELETE; {ref}/test POST
    credentials GET ?provider= POST {provider, name, key, weight}; {id} GET PATCH DELETE; {id}/rotate POST {key}
    models      GET POST {name, placement, targets: [{target: "provider/upstream", price?}]}; {ref} GET PATCH DELETE
    targets     GET ?model= POST {model, target, price?}; {id} GET PATCH DELETE
    prices      GET POST {model, price: {input, output, ...}} (USD per million tokens; sets or replaces); {id} DELETE
    nodes       GET ?revoked= ; {ref} GET PATCH {name, tags, owner, drained, approved} DELETE (= revoke)
                {ref}/prices PUT {model, price: {input, output} | null}
    join-tokens GET POST; {ref} GET; {ref}/revoke POST. Made: {..., "secret", "url"}
    usage       GET ?by=&since=;  requests GET ?limit&cursor;  requests/{id} GET;  audit GET;  snapshot GET
    config      check, diff, apply: POST {text, variables, source};  export GET

Routes for machines, without an admin token: `/node/v1/enroll`, `rotate`, `leave` (`rest/enrolment.py`).

Start with `operations/work.py`, then `rest/app.py`.
"""
