"""Prefixed ids: `req_`, `key_`, `prv_`, `crd_`, `mdl_`, `tgt_`, `prj_`, `org_`, `usr_`."""

import os
import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int, width: int) -> str:
    """`number` in lower-case base 36, padded with zeros to `width` characters."""
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = _ALPHABET[rest] + digits
    return digits.rjust(width, "0")


class _ObjectIds:
    """Time and number of the last id. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_ms = self._number = 0

    def next(self) -> str:
        with self._lock:
            now_ms = int(time.time() * 1000)
            if now_ms > self._at_ms:
                self._at_ms, self._number = now_ms, secrets.randbits(60)
            else:  # 36 ** 12 leaves room above
                self._number += 1
            return f"{base36(self._at_ms, 9)}{base36(self._number, 12)}"


_object_ids = _ObjectIds()


def new_id(prefix: str) -> str:
    """A fresh id for a stored object: `prefix_` + 9 time-sortable + 12 random characters.

    Those of one process sort in the order in which they were made, be it in one millisecond.
    """
    return f"{prefix}_{_object_ids.next()}"


class RequestIds:
    """Request ids at a tenth of a microsecond each: one random part per process, then a counter.

    Unique over processes and restarts, sortable by time of the process's start and then by order of arrival.
    """

    def __init__(self) -> None:
        boot = f"{base36(int(time.time() * 1000), 9)}{base36(secrets.randbits(40) ^ os.getpid(), 9)}"
        self._prefix = f"req_{boot}"
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count:08x}"
