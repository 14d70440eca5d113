"""The checks behind `potluck doctor`.

In here: `verdict` (what a check says), `machine` (this machine's files, disk, clock, port: work without a gateway) and
`network` (the running gateway, its providers, whether streams come through unbuffered, engines that run here).
Never: a change of anything; a key or token in a verdict; a check that takes more than ten seconds.
"""
