"""The bundled price table and its reader."""

import json
import re
from importlib.resources import files
from typing import Any

import pytest

from potluck.catalog import Catalog, CatalogError, catalog
from potluck.model.price import cost_nanousd
from potluck.model.usage import TokenUsage

SMALL: dict[str, Any] = {
    "format": 1,
    "version": "2026-11-24",
    "source": "by hand",
    "providers": {
        "first": {
            "url": "https://api\\.first\\.example",
            "also": ["erste"],
            "models": [
                {"name": "big", "price": {"input": 2, "output": 4}, "does": ["chat"], "names": ["big-2026-01-02"]},
                {"name": "big-mini", "price": {"input": 1, "output": 1}, "rules": [{"starts": "big-mini"}]},
                {
                    "name": "big-family",
                    "price": {"input": 9, "output": 9},
                    "rules": [{"starts": "big-o"}],
                    "listed": False,
                },
                {"name": "ears", "does": []},
                {"name": "old", "price": {"input": 1, "output": 1}, "deprecated": True},
            ],
        },
        "second": {
            "url": "https://(?:[a-z]+\\.)?second\\.example/v1",
            "resells": ["first"],
            "models": [{"name": "own", "price": {"input": 5, "output": 5, "per_request": 7}}],
        },
    },
}


def table(**changes: Any) -> Catalog:
    return Catalog(json.dumps(SMALL | changes).encode())


def test_bundle_is_whole() -> None:
    """The table in the package reads, is dated, says where it comes from, and knows the providers we set up by name."""
    bundle = catalog()
    assert re.fullmatch(r"catalog:\d{4}-\d{2}-\d{2}", bundle.version)
    assert "genai-prices" in bundle.source
    wanted = {"openai", "anthropic", "google", "mistral", "groq", "openrouter", "deepseek", "x-ai", "together"}
    assert wanted <= set(bundle.providers())
    for name in bundle.providers():
        for model in bundle.all_of(name):
            found = bundle.find(name, model.name) if model.listed else model
            assert found is not None, f"{name}/{model.name} is listed but not found"
            assert model.price is None or model.price.version == bundle.version


def test_bundle_prices_a_known_model() -> None:
    """Dated and undated names of one model have one price and cost what the provider's page says."""
    bundle = catalog()
    price = bundle.lookup("openai", "gpt-4o-mini")
    assert price is not None
    assert (price.input, price.cached_input, price.output) == (150_000_000, 75_000_000, 600_000_000)
    assert bundle.lookup("https://api.openai.com/v1", "gpt-4o-mini-2024-07-18") == price
    assert bundle.lookup("api.openai.com", "GPT-4o-mini") == price
    assert cost_nanousd(TokenUsage(1_000_000, 1_000_000), price) == 750_000_000


def test_bundle_context_tiers() -> None:
    """A model with a higher rate for long prompts has it as a tier."""
    price = catalog().lookup("https://generativelanguage.googleapis.com/v1beta/openai", "models/gemini-2.5-pro")
    assert price is not None
    assert [(tier.above_input_tokens, tier.input) for tier in price.tiers] == [(200_000, 2_500_000_000)]


def test_bundle_capabilities() -> None:
    """Embedding models embed, chat models chat, and nothing else is claimed of the ones that do neither."""
    models = catalog().models_of("https://api.openai.com/v1")
    assert models["text-embedding-3-small"].capabilities == ("embeddings",)
    assert "chat" in models["gpt-4o-mini"].capabilities
    assert models["gpt-3.5-turbo-instruct"].capabilities == ("completions",)
    assert models["whisper-1"].capabilities == ()
    assert models["whisper-1"].price is None


def test_bundle_reads_one_line_per_model() -> None:
    """A new edition can be reviewed as a list of changed lines."""
    lines = files("potluck.catalog").joinpath("data/prices.json").read_text().splitlines()
    entries = [line for line in lines if line.startswith('{"name":')]
    assert len(entries) == sum(len(catalog().all_of(name)) for name in catalog().providers())


@pytest.mark.parametrize(
    ("where", "provider"),
    [
        ("first", "first"),
        ("Erste", "first"),
        ("api.first.example", "first"),
        ("https://api.first.example/v1/", "first"),
        ("https://API.first.example:443/v1", "first"),
        ("http://api.first.example/v1", "first"),
        ("https://eu.second.example/v1/chat", "second"),
        ("https://second.example/v2", None),
        ("https://first.example", None),
        ("third", None),
        ("https://", None),
        ("", None),
    ],
)
def test_provider_by_name_host_or_address(where: str, provider: str | None) -> None:
    """A provider is known by its names, its host and its base URL, whatever the scheme, port and case."""
    assert table().provider(where) == provider


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("big", "big"),
        ("BIG", "big"),
        ("big-2026-01-02", "big"),
        ("big-20260102", "big"),
        ("big-mini", "big-mini"),
        ("big-mini-x", "big-mini"),
        ("big-other", "big-family"),
        ("big-family", None),
        ("models/big", "big"),
        ("huge", None),
    ],
)
def test_model_by_name_alias_rule(name: str, model: str | None) -> None:
    """Exact names, aliases, dates in both spellings and patterns lead to the first model that they match."""
    found = table().find("first", name)
    assert (found.name if found else None) == model


def test_resold_models_have_the_price_of_their_maker() -> None:
    """A provider that sells another's models has its own prices first, then the other's."""
    both = table()
    assert both.lookup("second", "own") is not None
    assert both.lookup("second", "big") == both.lookup("first", "big")
    assert both.lookup("first", "own") is None


def test_models_of_leaves_out_what_nobody_can_call() -> None:
    """Deprecated models and families of names are found when asked for, and not offered."""
    assert list(table().models_of("first")) == ["big", "big-mini", "ears"]
    assert table().models_of("https://nowhere.example") == {}
    assert table().lookup("first", "ears") is None
    assert table().lookup("first", "old") is not None


def models_with(**changes: Any) -> dict[str, Any]:
    return {"providers": {"first": {"url": "x", "models": [{"name": "m"} | changes]}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"version": "yesterday"},
        {"providers": {"first": {"url": "(", "models": []}}},
        {"providers": {"first": {"url": "x", "models": [], "typo": 1}}},
        {"providers": {"first": {"url": "x", "models": [{"name": "m"}, {"name": "m"}]}}},
        {"providers": {"first": {"url": "x", "models": [], "resells": ["nobody"]}}},
        {"providers": {"a": {"url": "x", "models": [], "also": ["b"]}, "b": {"url": "y", "models": []}}},
        models_with(price={"input": -1, "output": 1}),
        models_with(price={"input": 0.5, "output": 1}),
        models_with(price={"input": 1}),
        models_with(context=0),
        models_with(does=["singing"]),
        models_with(rules=[{}]),
        models_with(rules=[{"regex": "("}]),
        models_with(
            price={
                "input": 1,
                "output": 1,
                "tiers": [{"above": 9, "input": 1, "output": 1}, {"above": 5, "input": 1, "output": 1}],
            }
        ),
    ],
)
def test_a_bad_table_is_refused_whole(changes: dict[str, Any]) -> None:
    """One wrong value anywhere refuses the table with a sentence that says so, before any price of it is used."""
    with pytest.raises(CatalogError, match="price table"):
        table(**changes)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 1}', b"\xff"])
def test_an_unreadable_table_is_refused(text: bytes) -> None:
    """What is not a table at all is refused in the same way."""
    with pytest.raises(CatalogError, match="refused whole"):
        Catalog(text)
