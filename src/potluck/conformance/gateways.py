"""Ready configurations of the gateway under test: every case a public model, its targets in the order of the case.

Each gives the providers `PATIENCE_S` for the first token and between two, the gateway's own defaults otherwise. Keys
are made up: the providers take any.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from potluck.conformance.cases import PATIENCE_S, SILENCE_S, Case, Target

CALLER_KEY: Final = "sk-conformance"
"""for `--key`, where the configuration has to name one"""
Quoted = json.dumps
"""a text in double quotes: valid in TOML and YAML alike, these texts being ASCII or plain words"""


class Upstream(msgspec.Struct, frozen=True):
    """What a gateway calls a provider: base URL with a key, and how long it may be silent."""

    name: str
    base_url: str
    key: str
    patience_s: int


def upstream(case: Case, target: Target, host: str, ports: tuple[int, int, int]) -> Upstream:
    """The provider of a case's target; one of its own where the fault costs the key or the silence is meant."""
    port = dict(zip(("first", "second", "refused"), ports, strict=True))[target.place]
    name = f"{target.place}-{case.name}" if target.apart or case.slow else target.place
    address = f"[{host}]" if ":" in host else host
    return Upstream(name, f"http://{address}:{port}/v1", f"sk-{name}", SILENCE_S * 2 if case.slow else PATIENCE_S)


def potluck(cases: Sequence[Case], host: str, ports: tuple[int, int, int]) -> str:
    """A `potluck.toml`: `potluck serve --config FILE` or `potluck config apply FILE`."""
    upstreams = {each.name: each for case in cases for each in (upstream(case, t, host, ports) for t in case.targets)}
    lines = []
    for each in upstreams.values():
        timeouts = ", ".join(f"{name} = {each.patience_s}" for name in ("connect_s", "first_byte_s", "idle_s"))
        lines += [
            "[[providers]]",
            f"name = {Quoted(each.name)}",
            f"base_url = {Quoted(each.base_url)}",
            "own = true",
            f'credentials = [{{ name = "main", key = {Quoted(each.key)} }}]',
            f"timeouts = {{ {timeouts} }}",
            "",
        ]
    for case in cases:
        targets = (f"{upstream(case, target, host, ports).name}/{target.model}" for target in case.targets)
        entries = ", ".join(f"{{ target = {Quoted(target)} }}" for target in targets)
        lines += ["[[models]]", f"name = {Quoted(case.model)}", f"targets = [{entries}]", ""]
    return "\n".join(lines)


def litellm(cases: Sequence[Case], host: str, ports: tuple[int, int, int]) -> str:
    """A `config.yaml`: `litellm --config FILE`. The second target is a model group of its own, named in `fallbacks`."""
    lines, fallbacks = ["model_list:"], []
    for case in cases:
        names = [case.model, *(f"{case.model}--{n}" for n in range(2, len(case.targets) + 1))]
        for name, target in zip(names, case.targets, strict=True):
            each = upstream(case, target, host, ports)
            lines += [
                f"  - model_name: {Quoted(name)}",
                "    litellm_params:",
                f"      model: {Quoted(f'openai/{target.model}')}",
                f"      api_base: {Quoted(each.base_url)}",
                f"      api_key: {Quoted(each.key)}",
                f"      timeout: {each.patience_s}",
                f"      stream_timeout: {each.patience_s}",
            ]
        if names[1:]:
            fallbacks.append(f"    - {Quoted(names[0])}: [{', '.join(map(Quoted, names[1:]))}]")
    settings = ["router_settings:", "  num_retries: 0", "  fallbacks:", *fallbacks]
    return "\n".join([*lines, *settings, "general_settings:", f"  master_key: {Quoted(CALLER_KEY)}", ""])


def generic(cases: Sequence[Case], host: str, ports: tuple[int, int, int]) -> str:
    """Tab-separated, a line per target in the order to try: public model, base URL, upstream model, key, seconds."""
    return "\n".join(["# public model\tbase URL\tupstream model\tkey\ttimeout s", *_rows(cases, host, ports), ""])


def _rows(cases: Sequence[Case], host: str, ports: tuple[int, int, int]) -> Iterable[str]:
    for case in cases:
        for target in case.targets:
            each = upstream(case, target, host, ports)
            yield "\t".join((case.model, each.base_url, target.model, each.key, str(each.patience_s)))


GATEWAYS: Final[dict[str, Callable[[Sequence[Case], str, tuple[int, int, int]], str]]] = {
    "potluck": potluck,
    "litellm": litellm,
    "generic": generic,
}
"""what `config --for` knows"""
