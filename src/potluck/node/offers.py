"""What this machine offers: the engines that are watched, as CAPS, LOAD and addresses.

Rules of this file
- Shared are engines that the owner named, and those that were recognised on well-known ports of loopback. A server that
  only looks like OpenAI's is shared only if it was named: it may be a gateway to somebody's paid account.
- An engine that stopped answering stays offered, and is said not to be reachable: whoever restarts it has not taken its
  models away. It is forgotten when another engine answers there, and remembered over restarts (`recall`).
- Models that an engine has run elsewhere are not in its list (`engines.inventory`), so they are never offered.
- An engine's id is the same on this machine as long as the engine is; it tells its kind, not its address.
- What an engine says of itself goes through the protocol's patterns: what does not fit is left out, not sent.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from potluck.engines import model_file
from potluck.engines.asking import Place, is_loopback
from potluck.engines.builtin import SLOT_TOKENS, SLOTS, BuiltinModel
from potluck.engines.fingerprints import PORTS
from potluck.engines.local_upstream import LocalUpstream
from potluck.engines.watch import NOT_LOOKED, EngineWatch, WatchPace
from potluck.model.engine import Confidence, EngineModel
from potluck.model.engine import Engine as FoundEngine
from potluck.model.node import NodePrice
from potluck.model.secret import Secret
from potluck.node.jobs import Engine
from potluck.node.remembered import Seen
from potluck.node.settings import NodeSettings
from potluck.ports import Upstream
from potluck.wire import link_messages as m

LOCAL: Final = "local"
"""the built-in model's engine id"""
MANY_SLOTS: Final = 32  # of engines that batch and do not say how far
MAX_OFFERED_ENGINES: Final = 32
_CAPS_BYTES: Final = m.MAX_CAPS_BYTES - 32 * 1024  # of models; engines have the rest
_LOAD_BYTES: Final = m.MAX_CONTROL_BYTES - 16 * 1024
_MAX_MODELS: Final = 500
SHOWN: Final = 5  # names in a line for people
_MOST_TOLD: Final = 100
_BATCHING: Final = frozenset({"vllm", "sglang"})
_PATHS: Final = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
}
_SURE: Final[dict[Confidence, Literal["high", "medium", "low"]]] = {
    "digest": "high",
    "named": "medium",
    "guessed": "low",
}
_LOGGER = logging.getLogger("potluck.node")
_LOADING: Final = "is loading"
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}")
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{0,40}")
_DIGEST: Final = re.compile(r"[A-Za-z0-9:._-]{0,128}")


class Offered(msgspec.Struct, frozen=True, eq=False):
    """One engine and its models, as they are offered now."""

    engine: Engine
    offer: m.EngineOffer
    models: dict[str, m.ModelOffer]

    @property
    def away(self) -> str:
        """Why it cannot be called now."""
        return self.engine.away


class Offers:
    """Watches the engines. `on_change()`: what is offered, or what is told of it, may be another."""

    def __init__(
        self,
        settings: NodeSettings,
        salt: str,
        pool: Upstream,
        on_change: Callable[[], None],
        *,
        keys: Mapping[str, str] | None = None,
        home: Path | None = None,
        ports: tuple[int, ...] = PORTS,
        pace: WatchPace | None = None,
    ) -> None:
        """`salt`: goes into the engines' ids. `keys`: of engines, by address. `home`: where the built-in model lies.

        Raises `engines.asking.NotHereError` for an address that is none.
        """
        self.settings = settings
        self._salt = salt
        self._pool = pool
        self._on_change = on_change
        self._pace = pace or WatchPace()
        self._named: set[Place] = set()
        places: dict[tuple[str, int, str], Place] = {}
        for url in settings.engines:
            key = (keys or {}).get(url)
            place = Place.parse(url, Secret(key) if key else None, elsewhere=True)
            self._named.add(place)
            places[_spot(place)] = place
        for port in ports if settings.discover else ():
            place = Place("127.0.0.1", port)
            places.setdefault(_spot(place), place)
        self.watches = [EngineWatch(place, self._changed, pace) for place in places.values()]
        self._local: BuiltinModel | None = None
        self._local_upstream: Upstream | None = None
        if settings.local_model and home is not None:
            loop = asyncio.get_running_loop()
            self._local = BuiltinModel(home, loop, lambda _port, _secret: self._changed())
            self._local_upstream = LocalUpstream(pool, self._local, loop)
        self.offered: dict[str, Offered] = {}
        self.most_models: int | None = None
        """that the join token allows"""
        self._withheld: list[str] = []
        self._told: set[str] = set()
        self._seen: dict[EngineWatch, tuple[FoundEngine, int]] = {}
        """engines that were offered, with their slots then"""

    def recall(self, engines: Iterable[Seen]) -> None:
        """These were offered before the agent was started anew; those that are still shared are again, as away."""
        known = {each.place: each for each in engines}
        for watch in self.watches:
            seen = known.get(watch.place.base_url)
            if seen is not None and (seen.engine.kind != "openai-compatible" or watch.place in self._named):
                self._seen.setdefault(watch, (seen.engine, seen.slots))
        self.refresh()

    @property
    def seen(self) -> list[Seen]:
        """What to remember."""
        return [Seen(watch.place.base_url, *each) for watch, each in self._seen.items()]

    @property
    def looked(self) -> bool:
        """Each engine that may be here was looked for once."""
        coming = self._local is not None and self._local.state in ("off", "starting")
        return not coming and all(each.engine is not None or each.reason != NOT_LOOKED for each in self.watches)

    async def _look_again(self) -> None:
        """Where an engine was before a restart of the agent, its watch does not know that it was there."""
        while True:
            await asyncio.sleep(self._pace.missed_back_off_s)
            for watch in self._seen:
                if watch.engine is None:
                    watch.wake()

    async def run(self) -> None:
        """Watch until cancelled."""
        local = self._local
        tasks = [asyncio.ensure_future(watch.run()) for watch in self.watches]
        tasks.append(asyncio.ensure_future(self._look_again()))
        try:
            if local is not None:
                local.wait(self._changed)
                await local.start()
            await asyncio.gather(asyncio.Event().wait(), *tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if local is not None:
                local.unwait(self._changed)
                await local.stop()

    def find(self, engine: str, model: str, path: str) -> Engine | None:
        """Where a request goes; None unless exactly that is offered."""
        offered = self.offered.get(engine)
        if offered is None or model not in offered.models:
            return None
        return offered.engine if path in _paths(offered.models[model].capabilities) else None

    def watch_of(self, engine: str) -> EngineWatch | None:
        """Who watches it; None for the built-in model, and for one that is gone."""
        for watch in self.watches:
            if watch.engine is not None and self._id(watch.engine) == engine:
                return watch
        return None

    @property
    def local_state(self) -> str:
        """How the built-in model is, with its reason; empty where it is not wanted."""
        if self._local is None:
            return ""
        if self._local.state == "missing" and not model_file.has_engine():
            return "missing: its engine is not installed: potluck node doctor"  # whether its file is there or not
        return f"{self._local.state}: {self._local.reason}".rstrip(": ")

    @property
    def none_why(self) -> str:
        """Why nothing is offered, as far as it is known. It goes to the gateway: no path of this machine is in it."""
        found = "no engine with a model was found here"
        if self._local is None or self._local.state in ("off", "ready"):
            return found
        if self._local.state == "missing":
            what = "file is not installed" if model_file.has_engine() else "engine is not installed"
            return f"{found}, and the built-in model's {what}: potluck node doctor"
        does = "is loading" if self._local.state == "starting" else "does not start"
        return f"{found}, and the built-in model {does}"

    @property
    def away_code(self) -> m.RefuseCode:
        """The same for refusals."""
        codes = {one.engine.away_code for one in self.offered.values() if one.away}
        return "model_loading" if "model_loading" in codes else "model_gone"

    @property
    def away(self) -> str:
        """Why nothing can be called, though something is offered; empty: something can, or nothing is offered."""
        reasons = [one.away for one in self.offered.values()]
        return reasons[0] if reasons and all(reasons) else ""

    @property
    def withheld(self) -> list[str]:
        """What was found and is not shared, and why, for the owner."""
        return self._withheld

    def caps(self, revision: int, os_name: str, arch: str) -> m.Caps:
        """All that is offered."""
        offered = list(self.offered.values())
        models = _fitting([each for one in offered for each in one.models.values()], _CAPS_BYTES)
        slots = self.slots
        return m.Caps(
            revision, slots, self.settings.queue if slots else 0, [one.offer for one in offered], models, os_name, arch
        )

    @property
    def slots(self) -> int:
        """Requests at once, over all engines: the owner's number, else theirs."""
        total = sum(one.engine.slots for one in self.offered.values())
        return min(self.settings.slots or total, total, m.MAX_STREAMS)

    def loads(
        self, load_of: Callable[[str, str | None], tuple[int, int]], others: bool | None
    ) -> tuple[list[m.EngineState], list[m.ModelState]]:
        """How engines and models are. `load_of`: how many of our jobs run and wait at an engine, or at its model.

        `others`: somebody else uses the engines too. Else our own count is the truth: an engine's is seconds old.
        """
        engines, models = [], []
        for id_, one in self.offered.items():
            running, waiting = load_of(id_, None)
            watch = self.watch_of(id_)
            load = watch.load if watch is not None else None
            resident = load.resident if load is not None else None
            seen = load.running if load is not None else None
            engines.append(
                m.EngineState(
                    id_,
                    not one.away,
                    waiting=waiting + ((load.queued if load is not None else 0) or 0),
                    running=max(running, seen or 0) if others else running,
                    slots=one.engine.slots,
                    kv_used=load.cache_used if load is not None else None,
                    local_use=others,
                )
            )
            for name in one.models:
                mine, mine_waiting = load_of(id_, name)
                is_resident = self._local is not None and self._local.state == "ready" if id_ == LOCAL else None
                if resident is not None:
                    is_resident = name in resident
                models.append(m.ModelState(id_, name, resident=is_resident, running=mine, waiting=mine_waiting))
        models.sort(key=lambda each: (-(each.running or 0), not each.resident))
        return engines, _fitting(models, _LOAD_BYTES)

    def refresh(self) -> None:
        """What is offered, by what the watches know now; how many slots an engine has is learnt after its models."""
        offered: dict[str, Offered] = {}
        self._withheld = []
        for watch in self.watches:
            found, away = watch.engine, ""
            where = f"{found.kind if found is not None else 'engine'} at {watch.place.base_url.removesuffix('/v1')}"
            if found is not None and found.state == "locked":
                away = "wants a key: potluck node engine-key"
            elif found is not None and found.state != "ready":
                away = _LOADING
            elif found is None and watch in self._seen:
                away = "does not answer"
            before, slots = self._seen.get(watch, (None, 0))
            if away:
                where = where if found is not None or before is None else where.replace("engine", before.kind, 1)
                self._withheld.append(f"{where}: it {away}")
                if before is None or (found is not None and found.kind != before.kind):
                    continue
                found = before
            elif found is None:
                if watch.place in self._named and watch.reason != NOT_LOOKED:
                    self._withheld.append(f"{where}: {watch.reason}")
                continue
            elif found.kind == "openai-compatible" and watch.place not in self._named:
                self._withheld.append(
                    f"{where}: it is not known what it is; shared when named: potluck node set engines"
                )
                continue
            else:
                slots = watch.load.slots or self.settings.slots or (MANY_SLOTS if found.kind in _BATCHING else 1)
                self._seen[watch] = found, slots
                self._note_names(where, found)
            reason = f"its engine {where} {away}" if away else ""
            if len(offered) < MAX_OFFERED_ENGINES and (one := self._offered(watch, found, slots, reason)) is not None:
                offered[one.engine.id] = one
        local = self._local
        if local is not None and self._local_upstream is not None and (local.state == "ready" or LOCAL in self.offered):
            away = "" if local.state == "ready" else f"its built-in model does not answer: {local.reason}"
            offered[LOCAL] = self._offered_local(local, self._local_upstream, away)
        self.offered = self._allowed(offered)
        for each in self._withheld:
            if each not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(each)
                _LOGGER.warning("not shared: %s", each)

    def _note_names(self, where: str, found: FoundEngine) -> None:
        """Models that cannot be offered for their names."""
        long = [each.name[:60] for each in found.models if not _NAME.fullmatch(each.name)]
        self._withheld += [
            f"{where}: {shown}: no request can carry such a name (1 to 200 characters, ASCII, no spaces)"
            for shown in _few([*found.unusable, *long])
        ]

    def _allowed(self, offered: dict[str, Offered]) -> dict[str, Offered]:
        """The first ones, as many as the join token allows."""
        names = [(id_, name) for id_, one in offered.items() for name in one.models]
        if self.most_models is None or len(names) <= self.most_models:
            return offered
        left_out = [name for _, name in names[self.most_models :]]
        self._withheld.append(
            f"{', '.join(_few(left_out))}: the join token allows {self.most_models} models, the others come first"
        )
        kept = set(names[: self.most_models])
        cut = {}
        for id_, one in offered.items():
            models = {name: each for name, each in one.models.items() if (id_, name) in kept}
            if models:
                cut[id_] = Offered(one.engine, one.offer, models)
        return cut

    def _changed(self) -> None:
        self.refresh()
        self._on_change()

    def _offered(self, watch: EngineWatch, found: FoundEngine, slots: int, away: str) -> Offered | None:
        id_ = self._id(found)
        models = {each.name: each for model in found.models if (each := self._model(id_, model)) is not None}
        paths = sorted({path for each in models.values() for path in _paths(each.capabilities)})
        if not paths:
            return None
        place = watch.place
        fields = [("host", f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}")]
        if place.key:
            fields.append(("authorization", f"Bearer {place.key.reveal()}"))
        engine = Engine(
            id_,
            place.host,
            place.port,
            place.tls,
            place.prefix,
            tuple(fields),
            self._pool,
            slots,
            away,
            _away_code(is_loading=away.endswith(_LOADING)),
        )
        version = "".join(each for each in found.version if each.isprintable())[:100]
        return Offered(engine, m.EngineOffer(id_, _word(found.kind), paths, version), models)

    def _offered_local(self, local: BuiltinModel, upstream: Upstream, away: str) -> Offered:
        fields = (("host", f"127.0.0.1:{local.port}"), ("authorization", f"Bearer {local.api_key}"))
        engine = Engine(
            LOCAL,
            "127.0.0.1",
            local.port,
            False,
            "",
            fields,
            upstream,
            SLOTS,
            away,
            _away_code(is_loading=local.state == "starting"),
        )
        capabilities = ["chat", "completions", "embeddings"]
        input_price, output_price = self._price(model_file.MODEL_NAME)
        model = m.ModelOffer(
            LOCAL,
            model_file.MODEL_NAME,
            digest=f"sha256:{model_file.MODEL_SHA256}",
            format="gguf",
            quantization="Q4_1",
            confidence="high",
            context_tokens=SLOT_TOKENS,
            capabilities=capabilities,
            price_input_nanousd=input_price,
            price_output_nanousd=output_price,
        )
        return Offered(engine, m.EngineOffer(LOCAL, "builtin", sorted(_paths(capabilities))), {model.name: model})

    def _model(self, engine: str, model: EngineModel) -> m.ModelOffer | None:
        if not _NAME.fullmatch(model.name) or not _paths(list(model.capabilities)):
            return None
        input_price, output_price = self._price(model.name)
        return m.ModelOffer(
            engine,
            model.name,
            digest=model.digest if _DIGEST.fullmatch(model.digest) else "",
            format=model.format if _WORD.fullmatch(model.format) else "",
            quantization=model.quantisation if _WORD.fullmatch(model.quantisation) else "",
            confidence=_SURE[model.confidence],
            context_tokens=model.served_context or model.trained_context,
            capabilities=list(model.capabilities),
            price_input_nanousd=input_price,
            price_output_nanousd=output_price,
        )

    def _price(self, model: str) -> tuple[int | None, int | None]:
        prices = self.settings.prices
        price: NodePrice | None = prices.get(model) or prices.get("*")
        return (price.input, price.output) if price is not None else (None, None)

    def _id(self, found: FoundEngine) -> str:
        digest = blake2b(found.base_url.encode(), key=self._salt.encode()[:64], digest_size=4).hexdigest()
        return f"{_word(found.kind)}-{digest}"


T = TypeVar("T", bound=m.Message)


def _few(names: list[str]) -> list[str]:
    """The first ones, and how many more there are."""
    return names if len(names) <= SHOWN else [*names[:SHOWN], f"{len(names) - SHOWN} more"]


def _fitting(items: list[T], most_bytes: int) -> list[T]:
    """As many as fit into a frame."""
    total = 0
    for count, each in enumerate(items):
        total += len(msgspec.json.encode(each)) + 1
        if total > most_bytes or count >= _MAX_MODELS:
            return items[:count]
    return items


def _paths(capabilities: list[str]) -> set[str]:
    return {_PATHS[each] for each in capabilities if each in _PATHS}


def _away_code(*, is_loading: bool) -> m.RefuseCode:
    return "model_loading" if is_loading else "model_gone"


def _word(kind: str) -> str:
    return kind.replace(".", "_").replace("-", "_")


def _spot(place: Place) -> tuple[str, int, str]:
    return ("loopback" if is_loopback(place.host) else place.host, place.port, place.prefix)
