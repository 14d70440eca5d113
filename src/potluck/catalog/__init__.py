"""The bundled catalogue: which models a known provider has, and what they cost, at the date of the table.

    catalog().find("https://api.openai.com/v1", "gpt-4o-mini-2024-07-18")   # -> CatalogModel | None
    catalog().lookup("openai", "gpt-4o-mini")                               # -> Price | None
    catalog().models_of("https://api.groq.com/openai/v1")                   # -> {name: CatalogModel}

In here: the dated table (`data/prices.json`, made by `scripts/make_catalog.py` at release) and its reader.
Never: network, guesses at run time. A price that the table does not know is None, which makes a paid target unroutable;
it is never taken as zero.

Start with `table.py`.
"""

from potluck.catalog.table import Catalog, CatalogError, CatalogModel, catalog

__all__ = ["Catalog", "CatalogError", "CatalogModel", "catalog"]
