"""Asking a provider which models it has: `GET {base_url}/models`, which also tries its key. Costs nothing."""

import os
import time

import msgspec
import sqlalchemy as sa

from potluck.admin.control import Control
from potluck.admin.operations.providers import list_models_of
from potluck.admin.operations.work import Actor, Work
from potluck.identity.vault import VaultError
from potluck.model.secret import Secret
from potluck.providers.openai import models_request
from potluck.snapshot.providers import all_disabled
from potluck.store import tables as t

TIMEOUT_S = 10.0
MAX_BODY_BYTES = 8 << 20
MAX_MODELS = 5000


class Asked(msgspec.Struct, frozen=True):
    """How it went. `detail` is one sentence; `models` how many were named."""

    ok: bool
    detail: str
    models: int
    status: int | None
    """the provider's HTTP status; null when it gave none"""
    latency_ms: float | None


class _Entry(msgspec.Struct):
    id: str = ""
    name: str = ""


class _Models(msgspec.Struct):
    data: list[_Entry] = []
    models: list[_Entry] = []


async def ask(control: Control, actor: Actor, ref: str, timeout_s: float = TIMEOUT_S) -> Asked:
    """Ask, and keep what it names as the provider's own list. Raises 404 for no such provider; never for its faults."""
    access = await control.see(actor, lambda work: _access(work, ref))
    if access.fault:
        return Asked(False, access.fault, 0, None, None)
    asked, names = await _fetch(access.base_url, access.secret, timeout_s)
    if asked.ok:
        await control.do(actor, lambda work: list_models_of(work, access.provider_id, names))
    return asked


class _Access(msgspec.Struct, frozen=True):
    """Where to ask, and with which key; or why that is not possible."""

    provider_id: str
    base_url: str
    secret: Secret | None = None
    fault: str = ""


def _access(work: Work, ref: str) -> _Access:
    row = work.find(t.providers, "provider", ref)
    access = _Access(row["id"], row["base_url"])
    if row["builtin"]:
        fault = "the built-in model is looked after by the gateway: see `potluck local-model status`"
        return msgspec.structs.replace(access, fault=fault)
    credentials = t.credentials
    pool = sa.select(credentials).where(credentials.c.provider_id == row["id"])
    # the enabled ones first, the heaviest of them first
    credential = work.row(
        pool.order_by(credentials.c.disabled, credentials.c.weight.desc(), credentials.c.created_at_ms)
    )
    if credential is None:
        return access
    if credential["disabled"]:
        return msgspec.structs.replace(access, fault=all_disabled(row["name"]))
    try:
        return msgspec.structs.replace(access, secret=work.vault.unseal(credential["sealed"], credential["id"]))
    except VaultError as error:
        return msgspec.structs.replace(access, fault=str(error))


async def _fetch(base_url: str, secret: Secret | None, timeout_s: float) -> tuple[Asked, list[str]]:
    # imported on first use: 10 MB and 170 ms that an idle gateway does without
    import aiohttp

    url, fields = models_request(base_url, secret)
    began = time.perf_counter()
    status: int | None = None

    def failed(detail: str) -> tuple[Asked, list[str]]:
        return Asked(False, detail, 0, status, _since(began)), []

    try:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=True) as session,
            session.get(url, headers=fields, allow_redirects=False) as response,
        ):
            status = response.status
            body = await response.content.read(MAX_BODY_BYTES + 1)
            while len(body) <= MAX_BODY_BYTES and not response.content.at_eof():
                body += await response.content.read(MAX_BODY_BYTES + 1 - len(body))
    except TimeoutError:
        return failed(f"no answer within {timeout_s:g} s: is the base URL right, and the server up?")
    except aiohttp.ClientConnectorCertificateError:
        return failed("its certificate is not trusted")
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno
        return failed(f"cannot connect: {os.strerror(number).lower() if number else 'the host name is not known'}")
    except (aiohttp.ClientError, OSError, ValueError):
        return failed("the connection broke before a whole answer")
    if len(body) > MAX_BODY_BYTES:
        return failed(f"its list of models is larger than {MAX_BODY_BYTES} bytes")
    problem, names = named_in(status, body)
    if problem:
        return failed(problem)
    return Asked(True, f"it answers, and names {len(names)} models", len(names), status, _since(began)), names


def named_in(status: int, body: bytes) -> tuple[str, list[str]]:
    """What is wrong with an answer, in a sentence, or the models that it names."""
    if status in (401, 403):
        return f"it does not accept the key (HTTP {status}): potluck credential rotate", []
    if status != 200:
        return f"it answered HTTP {status} where a list of models was expected: is the base URL right?", []
    try:
        return "", _names(body)
    except msgspec.MsgspecError:
        return "its answer is not a list of models: is the base URL right?", []


def _names(body: bytes) -> list[str]:
    """Model names of `{"data": [{"id"}]}`; also a bare array, and `models` beside `data`, as some servers send."""
    if body.lstrip()[:1] == b"[":
        entries = msgspec.json.decode(body, type=list[_Entry])
    else:
        answer = msgspec.json.decode(body, type=_Models)
        entries = answer.data or answer.models
    names = dict.fromkeys(each.id or each.name for each in entries[:MAX_MODELS])
    return [
        name for name in names if 0 < len(name) <= 200 and name.isascii() and name.isprintable() and " " not in name
    ]


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
