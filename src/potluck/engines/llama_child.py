"""The child process: llama.cpp's server on a loopback port, for as long as the parent lives.

Run as `python -m potluck.engines.llama_child`, only by `engines.builtin`. The first line of stdin is a `ChildConfig` as
JSON (so that no secret stands in the argument list or the environment); stdin then stays open for as long as the child
may live: its end is the order to go. When the server answers, one line `ready` is written to stdout.

A line on stdin starts a second server for embeddings, on a port of its own; `embeddings` is written when it answers.
One server for both would be smaller, but lets an embedding wait until no text is being generated (measured: 3.4 s for a
chat of 400 tokens, without end while further chats come). The second one takes 60 MB: both map the same file.
"""

import os
import signal
import sys
import threading

import msgspec

EXIT_NO_ENGINE = 3
EXIT_NOT_STARTED = 4
READY = b"ready\n"
EMBEDDINGS_READY = b"embeddings\n"

_PR_SET_PDEATHSIG = 1


class ChildConfig(msgspec.Struct, frozen=True):
    """What the parent tells the child. `parent`: its process id; `api_key`: what callers of the port must present."""

    model: str
    template: str
    alias: str
    port: int
    embeddings_port: int
    api_key: str
    parent: int
    threads: int
    slots: int
    slot_tokens: int
    """prompt and answer of one request, together"""
    embedding_slots: int
    embedding_tokens: int
    """longest text that can be embedded; memory grows by 200 KB a token"""


def main() -> int:
    config = msgspec.json.decode(_first_line(), type=ChildConfig)
    _die_with(config.parent)
    embeddings_wanted = threading.Event()
    threading.Thread(target=_watch_stdin, args=(embeddings_wanted,), daemon=True).start()
    # llama.cpp may print to stdout: what we have to say goes to a copy that it does not know
    report = os.dup(1)
    os.dup2(2, 1)
    try:
        import xllamacpp  # 100 MB of shared library that only this process may load
    except ImportError as error:
        sys.stderr.write(f"the engine cannot be loaded: {error}\n")
        return EXIT_NO_ENGINE
    try:
        servers = [xllamacpp.Server(_for_text(xllamacpp, config))]
        os.write(report, READY)
        embeddings_wanted.wait()
        servers.append(xllamacpp.Server(_for_embeddings(xllamacpp, config)))
        os.write(report, EMBEDDINGS_READY)
    except RuntimeError as error:
        sys.stderr.write(f"the engine did not start: {error}\n")
        os._exit(EXIT_NOT_STARTED)  # a server that runs would hold the interpreter's end up
    threading.Event().wait()  # the watcher ends the process
    return len(servers)  # never: it keeps them alive


def _for_text(xllamacpp, config: ChildConfig):  # type: ignore[no-untyped-def]  # a Cython module
    p = _parameters(xllamacpp, config, config.port, config.slots, config.slot_tokens)
    p.chat_template = config.template
    p.use_jinja = True
    # as the model's authors advise: at llama.cpp's 0.8 so small a model rambles, and misses one tool call in ten
    p.sampling.temp = 0.2
    p.sampling.top_p = 0.9
    return p


def _for_embeddings(xllamacpp, config: ChildConfig):  # type: ignore[no-untyped-def]
    p = _parameters(xllamacpp, config, config.embeddings_port, config.embedding_slots, config.embedding_tokens)
    p.n_batch = p.n_ubatch = config.embedding_tokens
    p.embedding = True
    p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return p


def _parameters(xllamacpp, config: ChildConfig, port: int, slots: int, slot_tokens: int):  # type: ignore[no-untyped-def]
    p = xllamacpp.CommonParams()
    p.model.path = config.model
    p.model_alias = {config.alias}  # else answers name the file's path
    p.hostnames = ["127.0.0.1"]
    p.port = port
    p.api_keys = [config.api_key]
    p.cors_origins = ""
    p.n_parallel = slots
    p.n_ctx = slots * slot_tokens
    # with a cache for each slot, texts that are embedded at once are split over batches and pooled from their last part
    # alone: wrong vectors (off by 0.4). One cache for all, of which each slot has its share, has not this fault
    p.kv_unified = True
    p.kv_unified_per_slot = slot_tokens
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = config.threads
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


def _watch_stdin(embeddings_wanted: threading.Event) -> None:
    while os.read(0, 4096):
        embeddings_wanted.set()
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
