"""Make `src/potluck/catalog/data/prices.json` from the installed genai-prices package. A step of a release, no network.

    uv run --isolated --group prices --with . python scripts/make_catalog.py [--date 2026-11-24] [--out FILE]

Every name that the package knows is looked up in the finished table and must mean the same model as it does there.
Kept: rates per token and per request, valid at the date (of several by time of day, the highest). Left out, because our
usage records do not count them: hours, pages, characters, searches, service tiers, batch discounts.
"""

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import data_snapshot, types

from potluck.catalog.table import FORMAT, Catalog

OUT = Path(__file__).parent.parent / "src/potluck/catalog/data/prices.json"

LEFT_OUT = {"cursor", "github-copilot", "openai-decisions", "elevenlabs"}
"""no API that we could call, or a second entry for one address"""
ALSO = {
    "aws": ["bedrock"],
    "azure": ["azure-openai"],
    "google": ["gemini"],
    "mistral": ["mistralai"],
    "moonshotai": ["moonshot", "kimi"],
    "together": ["togetherai"],
    "x-ai": ["xai"],
    "zai": ["z-ai"],
}
RATES = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
}
TIERED = ("input", "output", "cached_input", "cache_write")

COMPLETIONS_TOO = {"fireworks", "novita", "openrouter", "together"}
COMPLETIONS_ONLY = ("ada", "babbage", "curie", "davinci", "text-davinci", "gpt-3.5-turbo-instruct", "babbage-002")
RESPONSES_ONLY = ("-codex", "codex-mini", "computer-use", "deep-research", "o1-pro", "o3-pro", "gpt-5-pro")
EMBEDDINGS = ("embed", "bge-", "/bge", "gte-", "voyage-")
NEITHER = (
    *(
        "audio",
        "dall-e",
        "image",
        "imagen",
        "-live",
        "lyria",
        "moderation",
        "ocr",
        "orpheus",
        "realtime",
        "rerank",
        "sora",
    ),
    *("speech", "transcribe", "translate", "tts", "veo-", "video", "voice", "whisper"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", type=dt.date.fromisoformat, default=dt.datetime.now(dt.UTC).date())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    providers = [each for each in data_snapshot.get_snapshot().providers if each.id not in LEFT_OUT]
    text = render(providers, options.date)
    wrong = list(differences(Catalog(text.encode()), providers))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    options.out.write_text(text)
    models = sum(len(each.models) for each in providers)
    print(f"{options.out}: {len(providers)} providers, {models} models, {len(text)} bytes")
    return 0


def render(providers: Iterable[types.Provider], date: dt.date) -> str:
    """The file: one line per model, so that a new edition reads as a list of changes."""
    head = {
        "format": FORMAT,
        "version": date.isoformat(),
        "source": f"genai-prices {version('genai_prices')}, © Pydantic Services Inc., MIT licence",
    }
    lines = [json.dumps(head, ensure_ascii=False)[:-1] + ', "providers": {']
    parts = []
    for provider in providers:
        about: dict[str, Any] = {"url": provider.api_pattern.removeprefix("(https?://)?").replace("^", "")}
        if provider.api_pattern.startswith("(https?://)?"):
            about["url"] = "https://" + about["url"]
        if also := ALSO.get(provider.id):
            about["also"] = also
        if provider.fallback_model_providers:
            about["resells"] = provider.fallback_model_providers
        models = ",\n".join(_line(model_entry(provider, model, date)) for model in provider.models)
        parts.append(f'"{provider.id}": {_line(about)[:-1]},"models":[\n{models}]}}')
    lines.append(",\n".join(parts))
    lines.append("}}")
    return "\n".join(lines) + "\n"


def model_entry(provider: types.Provider, model: types.ModelInfo, date: dt.date) -> dict[str, Any]:
    names, rules = names_and_rules(model.match)
    # an id of the package need not be a name that the provider answers to
    listed = next((name for name in (model.id, *names) if provider.find_model(name) is model), None)
    entry: dict[str, Any] = {"name": listed or model.id}
    price = rates(model, date)
    does = abilities(provider.id, model)
    if price is not None:
        entry["price"] = price
        # a model with one rate: embeddings have no output, old completion models charge the same both ways
        price.setdefault("output", 0 if "embeddings" in does else price["input"])
        for tier in price.get("tiers", ()):
            tier.setdefault("output", price["output"])
    if model.context_window:
        entry["context"] = model.context_window
    if does:
        entry["does"] = does
    others = [name for name in dict.fromkeys(names) if name != listed]
    if others:
        entry["names"] = others
    if rules:
        entry["rules"] = rules
    if listed is None:
        entry["listed"] = False
    if model.deprecated:
        entry["deprecated"] = True
    return entry


def rates(model: types.ModelInfo, date: dt.date) -> dict[str, Any] | None:
    """Integer nano-USD. None when the model is not sold by tokens."""
    price = price_at(model, date)
    found = {ours: value for ours, theirs in RATES.items() if (value := getattr(price, theirs)) is not None}
    if "input" not in found:
        return {"input": 0, "output": 0} if model.id.endswith(":free") and not found else None
    out: dict[str, Any] = {ours: nanousd(base(value)) for ours, value in found.items()}
    if price.requests_kcount is not None:
        out["per_request"] = nanousd(base(price.requests_kcount) / 1000)
    starts = sorted(
        {tier.start for value in found.values() if isinstance(value, types.TieredPrices) for tier in value.tiers}
    )
    if starts:
        out["tiers"] = [
            {"above": start} | {ours: nanousd(base(found[ours], start)) for ours in TIERED if ours in found}
            for start in starts
        ]
    return out


def price_at(model: types.ModelInfo, date: dt.date) -> types.ModelPrice:
    """The price that holds at a date; of prices by time of day the highest, so that a budget is never passed unseen."""
    if isinstance(model.prices, types.ModelPrice):
        return model.prices
    standing = model.prices[0].prices
    by_hour = []
    for each in model.prices:
        if isinstance(each.constraint, types.TimeOfDateConstraint):
            by_hour.append(each.prices)
        elif each.constraint is None or each.constraint.start_date <= date:
            standing = each.prices
    return max(
        [standing, *by_hour],
        key=lambda price: (base(price.input_mtok or Decimal(0)), base(price.output_mtok or Decimal(0))),
    )


def base(value: Decimal | types.TieredPrices, above: int = -1) -> Decimal:
    if isinstance(value, types.TieredPrices):
        return next((tier.price for tier in reversed(value.tiers) if tier.start <= above), value.base)
    return value


def nanousd(usd: Decimal) -> int:
    return int((usd * 10**9).to_integral_value(rounding=ROUND_CEILING))


def abilities(provider: str, model: types.ModelInfo) -> list[str]:
    """What the model's endpoint answers, as its name and its rates tell."""
    name = model.id.lower()
    if any(part in name for part in EMBEDDINGS) and "rerank" not in name:
        return ["embeddings"]
    if any(part in name for part in NEITHER):
        return []
    if provider in ("openai", "azure"):
        if name.startswith(COMPLETIONS_ONLY):
            return ["completions"]
        if any(part in name for part in RESPONSES_ONLY):
            return ["responses"]
        return ["chat", "responses"]
    return ["chat", "completions"] if provider in COMPLETIONS_TOO else ["chat"]


def names_and_rules(match: Any) -> tuple[list[str], list[dict[str, Any]]]:
    names: list[str] = []
    rules: list[dict[str, Any]] = []
    for clause in match.or_ if isinstance(match, types.ClauseOr) else [match]:
        if isinstance(clause, types.ClauseOr):
            more_names, more_rules = names_and_rules(clause)
            names += more_names
            rules += more_rules
        elif isinstance(clause, types.ClauseEquals):
            names.append(clause.equals)
        else:
            rules.append(rule(clause.and_ if isinstance(clause, types.ClauseAnd) else [clause]))
    return names, rules


def rule(clauses: list[Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for clause in clauses:
        if isinstance(clause, types.ClauseContains):
            out["contains"] = [*out.get("contains", []), clause.contains.lower()]
            continue
        key, text = (
            ("starts", clause.starts_with.lower())
            if isinstance(clause, types.ClauseStartsWith)
            else ("ends", clause.ends_with.lower())
            if isinstance(clause, types.ClauseEndsWith)
            else ("regex", clause.regex)
        )
        if key in out:
            raise ValueError(f"two conditions of one kind in one rule: {clauses}")
        out[key] = text
    return out


def differences(catalog: Catalog, providers: list[types.Provider]) -> Iterator[str]:
    """Names that mean something else in our table than in the package: a model is known by its place in the list."""
    places = {id(model): (each.id, place) for each in providers for place, model in enumerate(each.models)}
    ours_at = {
        (each.id, model.name): (each.id, place)
        for each in providers
        for place, model in enumerate(catalog.all_of(each.id))
    }
    for provider in providers:
        known = {text for model in provider.models for text in (model.id, *names_and_rules(model.match)[0])}
        dated = {
            f"{text}{end}" for text in known for end in ("-2026-11-24", "-20261124", "@20261124", "-001", "-latest")
        }
        for text in sorted(known | dated):
            theirs = provider.find_model(text, all_providers=providers)
            found = catalog.find(provider.id, text)
            if found is not None:
                at = {
                    ours_at.get((name, found.name))
                    for name in (provider.id, *(provider.fallback_model_providers or ()))
                }
            else:
                at = {None}
            if (places[id(theirs)] if theirs else None) not in at:
                yield f"{provider.id}/{text}: {theirs and theirs.id} there, {found and found.name} here"


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
