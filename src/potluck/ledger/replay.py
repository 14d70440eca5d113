"""What dead processes left open, settled as `lost`: once, before the gateway says that it is ready.

For each process whose files nobody owns: an intent whose request has no settlement becomes a settlement with outcome
`lost`, at its reserved amount, marked as estimated; where nothing was reserved its input is estimated from its size and
its cost is unknown, not zero. The lines are appended to that process's last file and synced
before its files are closed, so a replay killed at any moment is simply done again and finds its own lines.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec

from potluck.ledger.files import UNREADABLE, SpoolFile, close_file, list_files, sync_directory, try_lock
from potluck.model.usage import AttemptRecord, Intent, Settlement, TokenUsage, UsageRecord
from potluck.policy.estimate import estimate_usage

log = logging.getLogger(__name__)


class ReplaySummary(msgspec.Struct):
    """`files` of dead processes were read, with `lines` lines; `lost` calls were settled; `corrupt` lines were skipped.

    `errors` says which files could not be dealt with, and why; they are tried again at the next start.
    """

    files: int = 0
    lines: int = 0
    lost: int = 0
    corrupt: int = 0
    seconds: float = 0.0
    errors: list[str] = msgspec.field(default_factory=list)


class _Id(msgspec.Struct, gc=False):
    id: str


class _Settled(msgspec.Struct, tag="s", tag_field="t", gc=False):
    r: _Id


class _Refused(msgspec.Struct, tag="r", tag_field="t", gc=False):
    pass


class _Plan(msgspec.Struct, tag="p", tag_field="t", gc=False):
    pass


_decode_line = msgspec.json.Decoder(Intent | _Settled | _Refused | _Plan).decode
_decode_intent = msgspec.json.Decoder(Intent).decode


def replay(directory: Path) -> ReplaySummary:
    """Settle what dead processes left open in the spool at `directory`. Blocking; 10⁵ lines take well under a second.

    Files of living processes are left alone. Raises nothing: a file that cannot be read or written is in `errors`.
    """
    started_s = time.perf_counter()
    summary = ReplaySummary()
    unclosed = (file for file in list_files(directory) if not file.closed)
    for _, files in groupby(unclosed, key=lambda file: file.boot):
        locked: list[tuple[SpoolFile, int]] = []
        try:
            _replay_process(directory, list(files), locked, summary)
        except OSError as error:
            summary.errors.append(f"{error.filename or directory}: {error.strerror}")
        finally:
            for _, fd in locked:
                os.close(fd)
    summary.seconds = time.perf_counter() - started_s
    for text in summary.errors:
        log.error("a spool file could not be replayed, it is left for the next start: %s", text)
    return summary


def _replay_process(
    directory: Path, files: list[SpoolFile], locked: list[tuple[SpoolFile, int]], summary: ReplaySummary
) -> None:
    for file in files:
        try:
            fd = os.open(file.path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            continue  # its owner, or another replay, closed it just now
        locked.append((file, fd))
        if not try_lock(fd):
            return  # alive
        if not file.path.exists():
            return
    opened, settled = _read(locked, summary)
    lost = [lines for request_id, lines in opened.items() if request_id not in settled]
    if lost:
        _append(locked[-1][1], [msgspec.json.encode(Settlement(lost_record(lines))) for lines in lost])
        summary.lost += len(lost)
    for file, fd in locked:
        if os.fstat(fd).st_size == 0:
            file.path.unlink()
        else:
            close_file(file.path)
    sync_directory(directory)


def _read(locked: list[tuple[SpoolFile, int]], summary: ReplaySummary) -> tuple[dict[str, list[bytes]], set[str]]:
    """Intent lines by request id, and the ids that have a settlement."""
    opened: dict[str, list[bytes]] = {}
    settled: set[str] = set()
    for _, fd in locked:
        summary.files += 1
        for line in _lines(fd):
            summary.lines += 1
            try:
                found = _decode_line(line)
            except UNREADABLE:
                summary.corrupt += bool(line.strip())
                continue
            if isinstance(found, Intent):
                opened.setdefault(found.id, []).append(line)
            elif isinstance(found, _Settled):
                settled.add(found.r.id)
                opened.pop(found.r.id, None)
    return opened, settled


def _lines(fd: int) -> Iterator[bytes]:
    """The whole lines of a file; what follows the last newline is cut off the file."""
    with open(fd, "rb", closefd=False) as reader:
        size = 0
        for line in reader:
            if not line.endswith(b"\n"):
                os.ftruncate(fd, size)
                return
            size += len(line)
            yield line


def _append(fd: int, lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    size = os.fstat(fd).st_size
    written = 0
    try:
        while written < len(data):
            written += os.write(fd, data[written:])
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, size + data.rfind(b"\n", 0, written) + 1)
        raise


def lost_record(lines: Iterable[bytes]) -> UsageRecord:
    """The record of a call that died with its process, from its intent lines (copies of one attempt count once).

    An attempt that a later intent lists in `failed` is taken as it says; every other one was in flight, and is charged
    what was reserved for it, if anything was. The cost is None when no attempt's is known.
    """
    intents = {intent.n: intent for intent in map(_decode_intent, lines)}
    ended = {attempt.n: attempt for intent in intents.values() for attempt in intent.failed}
    flying = {n: intent for n, intent in intents.items() if n not in ended}
    attempts = ended | {n: _lost_attempt(intent) for n, intent in flying.items()}
    last = intents[max(intents)]
    costs = [attempt.cost_nanousd for attempt in attempts.values() if attempt.cost_nanousd is not None]
    usages = [attempt.usage for attempt in attempts.values() if attempt.usage is not None]
    return UsageRecord(
        id=last.id,
        at_ms=min(intent.at_ms for intent in intents.values()),
        organisation_id=last.organisation_id,
        project_id=last.project_id,
        key_id=last.key_id,
        endpoint=last.endpoint,
        model=last.model,
        outcome="lost",
        status=0,
        stream=last.stream,
        route=last.route,
        user=last.user,
        tags=last.tags,
        target_id=last.target_id,
        target=last.target,
        provider_id=last.provider_id,
        usage=TokenUsage(
            input_tokens=sum(usage.input_tokens for usage in usages),
            output_tokens=sum(usage.output_tokens for usage in usages),
            estimated=True,
        ),
        cost_nanousd=sum(costs) if costs else None,
        error_code="lost",
        attempts=tuple(attempts[n] for n in sorted(attempts)),
        request_bytes=last.request_bytes,
    )


def _lost_attempt(intent: Intent) -> AttemptRecord:
    usage = TokenUsage(intent.reserved_input_tokens, intent.reserved_output_tokens, estimated=True)
    if not (usage.input_tokens or usage.output_tokens):
        usage = estimate_usage(intent.request_bytes, 0)
    return AttemptRecord(
        n=intent.n,
        target_id=intent.target_id,
        target=intent.target,
        provider_id=intent.provider_id,
        credential_id=intent.credential_id,
        error_class="lost",
        error="the gateway died while the call was in flight",
        usage=usage,
        cost_nanousd=intent.reserved_nanousd if intent.reserved_nanousd > 0 else None,
        price_version=intent.price_version,
        kind=intent.kind,
    )
