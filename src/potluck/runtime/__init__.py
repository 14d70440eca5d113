"""The composition root: builds the parts from settings, starts and stops them in order, owns signals and the drain.

Start with `gateway.py`: the order of a start and of a stop is its text. `control.py` brings the control plane in after
the data plane listens. `ticker.py` runs all deadlines. Nothing else imports this room but the command line.
"""
