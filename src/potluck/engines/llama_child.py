"""The child process: llama.cpp's server on a loopback port, for as long as the parent lives.

Run as `python -m potluck.engines.llama_child`, only by `engines.builtin`. The first line of stdin is a `ChildConfig` as
JSON (so that no secret stands in the argument list or the environment); stdin then stays open for as long as the child
may live: its end is the order to go. When the server answers, one line `ready` is written to stdout.
"""

import os
import signal
import sys
import threading

import msgspec

EXIT_NO_ENGINE = 3
EXIT_NOT_STARTED = 4

_PR_SET_PDEATHSIG = 1


class ChildConfig(msgspec.Struct, frozen=True):
    """What the parent tells the child. `parent`: its process id; `api_key`: what callers of the port must present."""

    model: str
    template: str
    alias: str
    port: int
    api_key: str
    parent: int
    threads: int
    slots: int
    context_tokens: int
    """over all slots"""
    batch_tokens: int
    """also the longest text that can be embedded"""


def main() -> int:
    config = msgspec.json.decode(_first_line(), type=ChildConfig)
    _die_with(config.parent)
    threading.Thread(target=_watch_stdin, daemon=True).start()
    # llama.cpp may print to stdout: what we have to say goes to a copy that it does not know
    report = os.dup(1)
    os.dup2(2, 1)
    try:
        import xllamacpp  # 100 MB of shared library that only this process may load
    except ImportError as error:
        sys.stderr.write(f"the engine cannot be loaded: {error}\n")
        return EXIT_NO_ENGINE
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, config))
    except RuntimeError as error:
        sys.stderr.write(f"the engine did not start: {error}\n")
        return EXIT_NOT_STARTED
    os.write(report, b"ready\n")
    os.close(report)
    threading.Event().wait()  # the watcher ends the process
    del server
    return 0


def _parameters(xllamacpp, config: ChildConfig):  # type: ignore[no-untyped-def]  # a Cython module
    p = xllamacpp.CommonParams()
    p.model.path = config.model
    p.model_alias = {config.alias}  # else answers name the file's path
    p.chat_template = config.template
    p.use_jinja = True
    p.hostnames = ["127.0.0.1"]
    p.port = config.port
    p.api_keys = [config.api_key]
    p.cors_origins = ""
    p.n_parallel = config.slots
    p.n_ctx = config.context_tokens
    p.n_batch = p.n_ubatch = config.batch_tokens
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = config.threads
    p.embedding = True
    p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    # as the model's authors advise: at llama.cpp's 0.8 so small a model rambles, and misses one tool call in ten
    p.sampling.temp = 0.2
    p.sampling.top_p = 0.9
    p.cache_ram_mib = 0  # prompts of old conversations would be kept beside the slots, up to 8 GiB
    p.ui = False
    p.endpoint_metrics = p.endpoint_props = False
    p.verbosity = 1
    return p


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        block = os.read(0, 1)  # unbuffered: the watcher reads the same descriptor
        if not block:
            raise SystemExit(0)
        line += block
    return line


def _watch_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _die_with(parent: int) -> None:
    """The kernel's own signal at the parent's death: it also works while the engine holds the interpreter's lock."""
    if sys.platform == "linux":
        import ctypes  # the parent imports this module too, and needs it not

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
