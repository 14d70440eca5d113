"""Pure decisions and estimators: what to do, given what is known. Time and randomness are passed in.

In here: `estimate.py` (token counts where a target gives none), `retry_after.py` (how long a target asks to be left
alone). Expected outcomes are values, not exceptions.
Never: I/O of any kind, a clock, a random source, logging; state is the caller's.
"""
