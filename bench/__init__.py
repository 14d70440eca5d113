"""The bench: what a request costs through Potluck, beside nginx in the same run on the same machine.

`python -m bench` starts a private nginx, a fresh Potluck and fixed upstreams on loopback, measures each row in
interleaved rounds and prints a table beside `budgets.toml`. The gateway runs on core 0, load and upstreams on core 1.
CPU is user + system time of the gateway's process tree, read from /proc, divided by what it did meanwhile.

Never: traffic to anything but loopback, an endless run, a process left behind, a figure without a delivery check.
Start reading in `rows.py`; `processes.py` starts and stops things, `stack.py` says which, `report.py` judges.
"""
