"""Aliases that look like pins are looked up together."""

from types import SimpleNamespace
from typing import Any

import pytest

from potluck.admin.errors import OperationError
from potluck.admin.operations import names


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each reading of all names in the store, where there is one provider, `lab`."""
    reads: list[Any] = []

    def public_names(work: Any) -> Any:
        reads.append(work)
        return SimpleNamespace(providers={"lab": "http://127.0.0.1:9/v1"})

    monkeypatch.setattr(names, "PublicNames", public_names)
    return reads


def test_many_aliases_are_one_look(reads: list[Any]) -> None:
    """A model with fifty of them does not read every name fifty times; one without such aliases reads none."""
    work: Any = object()
    names.check_aliases(work, [f"team/{n}" for n in range(50)])
    assert reads == [work]
    names.check_aliases(work, ["small", "s"])
    assert reads == [work]


def test_one_of_many_is_refused(reads: list[Any]) -> None:
    """The one that would hide a pin is named, wherever it stands."""
    work: Any = object()
    with pytest.raises(OperationError, match="'lab/x' would hide that model of provider 'lab'"):
        names.check_aliases(work, ["small", "team/x", "lab/x"])
    assert len(reads) == 1
