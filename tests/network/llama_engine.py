"""A real llama.cpp server as somebody's own engine: `python llama_engine.py MODEL PORT`, until it is killed.

It has no key and tells what it is, as the engine that a person runs at home does.
"""

import ctypes
import signal
import sys
import threading

import xllamacpp


def main(model: str, port: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the test
    p = xllamacpp.CommonParams()
    p.model.path = model
    p.model_alias = {"story"}
    p.hostnames = ["127.0.0.1"]
    p.port = port
    p.n_parallel = 4
    p.n_ctx = 4 * 2048
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.cache_ram_mib = 0
    p.endpoint_metrics = p.endpoint_props = p.endpoint_slots = True
    p.verbosity = 1
    server = xllamacpp.Server(p)
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
