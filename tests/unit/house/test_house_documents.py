"""The documents: decision records have their head, links lead somewhere, generated pages are current."""

import ast
import re
import runpy
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from house_tree import ROOT, parse, shown, tracked_files

from potluck.admin.operations import enrolment, join_tokens
from potluck.admin.operations import nodes as node_operations
from potluck.admin.rest import buckets
from potluck.admin.rest import enrolment as strangers
from potluck.hub import call as hub_call
from potluck.hub import links, session
from potluck.hub import node as hub_node
from potluck.hub import socket as hub_socket
from potluck.model.resources import Timeouts
from potluck.model.usage import TokenUsage
from potluck.node import agent, commands, dialing, jobs, telling, unloading
from potluck.node import standing as node_standing
from potluck.policy import (
    affinity,
    breaker,
    calibration,
    credentials,
    estimate,
    hedging,
    latency,
    machine_choice,
    machine_cost,
    machine_groups,
    machines,
    mix,
    objections,
    prefix_blocks,
    retry,
    retry_after,
    selection,
    standing,
)
from potluck.proxy import candidates, registry, routing
from potluck.proxy.limits import PlaneLimits
from potluck.runtime import fleet
from potluck.snapshot import nodes
from potluck.wire import http1

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
DOCUMENTS = [path for path in tracked_files() if path.suffix == ".md"]
OUTSIDE = re.compile(r"[a-z]+:|#")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEAD = re.compile(
    r"# (\d{4}): \S.*\n\n\| Date \| Status \| Tags \|\n\| --- \| --- \| --- \|\n\| (\S+) \| (\w+) \| (.+) \|\n"
)
ROUTING = (
    affinity, breaker, calibration, candidates, credentials, estimate, hedging, latency, machine_choice, machine_cost,
    machine_groups, machines, mix, nodes, objections, prefix_blocks, retry, retry_after, selection, standing, registry,
    routing,
)  # fmt: skip
"""modules of decisions, whose numbers are on the page of defaults"""
AGENT = (agent, commands, dialing, jobs, node_standing, telling, unloading)
"""the same of the agent; the owner's rules are on the page of a machine's settings"""
HUB = (
    hub_call,
    links,
    hub_node,
    session,
    hub_socket,
    fleet,
    enrolment,
    node_operations,
    join_tokens,
    strangers,
    buckets,
)
"""the same of nodes at the gateway, and of how they enrol"""
TARGETS = ("install", "serve", "test", "test-long", "bench", "lint", "fmt", "lock", "clean")


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_record_has_its_head_and_parts(path: Path) -> None:
    """A record opens with number, title, date, status and tags, and has its four parts."""
    text = path.read_text(encoding="utf-8")
    head = HEAD.match(text)
    assert head, f"{shown(path)} does not open with the header table"
    number, day, status, tags = head.groups()
    assert path.name.startswith(number)
    assert date.fromisoformat(day)
    assert status in {"accepted", "superseded", "rejected"}
    assert all(re.fullmatch(r"[a-z-]+", tag) for tag in tags.split(", "))
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == ["Context", "Options", "Decision", "Consequences"]


def test_decision_records_are_numbered_without_gaps() -> None:
    """Records count up from 0001, and the folder's list names each."""
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    listed = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DECISIONS if path.name not in listed] == []


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link in a document names a file of the tree."""
    broken = []
    for document in DOCUMENTS:
        links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if not OUTSIDE.match(link)]
        broken += [
            f"{shown(document)}: {link}" for link in links if not (document.parent / link.split("#")[0]).exists()
        ]
    assert broken == []


def test_the_page_of_error_codes_is_current() -> None:
    """docs/reference/error-codes.md is what the table in wire/errors.py makes of it."""
    page = runpy.run_path(str(ROOT / "scripts" / "error-codes"))["page"]()
    assert (ROOT / "docs" / "reference" / "error-codes.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("target", TARGETS)
def test_the_makefile_has_every_promised_target(target: str) -> None:
    """The commands that README and CONTRIBUTING name are targets."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_changelog_has_a_section_for_what_is_to_come() -> None:
    """CHANGELOG.md keeps an Unreleased section on top."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_the_readme_stays_short() -> None:
    """A newcomer reads README.md in five minutes: 150 lines at most."""
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150


def _bare(value: float | tuple[int, ...] | TokenUsage, name: str) -> str:
    """A default as the page writes it."""
    if isinstance(value, TokenUsage):
        return f"{value.input_tokens:,} + {value.output_tokens:,} tokens"
    if isinstance(value, tuple):
        return ", ".join(_bare(each, name) for each in value)
    unit = name.lower().rpartition("_")[2]
    if unit in ("s", "ms"):
        return f"{value:,.9g} {unit}"
    if "bytes" in name.lower():
        for size, prefix in ((1024 * 1024, "MiB"), (1024, "KiB")):
            if value >= size:
                return f"{value / size:g} {prefix}"
    return f"{value:,.9g}"


def _written_out(module: ModuleType) -> dict[str, Any]:
    """The module's public constants that it writes as numbers, not as formulas over others."""
    found = {}
    for node in parse(Path(str(module.__file__))).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) and node.value is not None:
            name, value = target.id, getattr(module, target.id)
            used = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            is_number = isinstance(value[0] if isinstance(value, tuple) else value, int | float | TokenUsage)
            if is_number and used <= {"TokenUsage"} and not name.startswith("_"):
                found[name] = value
    return found


def test_the_page_of_defaults_is_current() -> None:
    """Every limit, timeout and number of routing stands on the page once, with the program's value, and no other."""
    named = [(name, getattr(http1, name)) for name in dir(http1) if name.startswith(("MAX_", "DRAIN_"))]
    for struct in (PlaneLimits, Timeouts):
        named += [(field.name, field.default) for field in msgspec.structs.fields(struct)]
    for module in ROUTING + AGENT + HUB:
        named += _written_out(module).items()
    page = (ROOT / "docs" / "reference" / "defaults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted((name, _bare(value, name)) for name, value in named)
