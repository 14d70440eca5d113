"""What the engines offered last, in a file: read back as it was, bounded, written when it is another."""

from pathlib import Path

import msgspec

from potluck.model.engine import Engine, EngineModel
from potluck.node.home import Home
from potluck.node.remembered import MAX_BYTES, OFFERS_FILE, Remembered, Seen

URL = "http://127.0.0.1:11434/v1"


def seen(*models: EngineModel, url: str = URL) -> Seen:
    return Seen(url, Engine("ollama", url, models=models), 4)


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    """But for what is in memory: a model that comes and goes there is no reason to write."""
    home, complaints = Home(tmp_path), list[str]()
    kept = Remembered(home, complaints.append)
    assert kept.read() == ()
    kept.keep([seen(EngineModel("tiny", ("chat",), resident=True))])
    written = home.changed_at(OFFERS_FILE)
    kept.keep([seen(EngineModel("tiny", ("chat",), resident=False))])
    assert home.changed_at(OFFERS_FILE) == written
    assert Remembered(home, complaints.append).read() == (seen(EngineModel("tiny", ("chat",))),)
    assert complaints == []


def test_an_engine_with_endless_models_is_left_out(tmp_path: Path) -> None:
    """The file stays within its bound, and the others are in it."""
    many = [EngineModel("m" * 200 + str(n), ("chat",)) for n in range(2000)]
    kept = Remembered(Home(tmp_path), lambda _: None)
    kept.keep([seen(EngineModel("tiny", ("chat",))), seen(*many, url="http://127.0.0.1:8000/v1")])
    assert [each.place for each in kept.read()] == [URL]
    assert len(msgspec.json.encode(kept.read())) < MAX_BYTES


def test_a_file_that_cannot_be_read_or_written_is_complained_of_once(tmp_path: Path) -> None:
    """It ends nothing, and what it would have held is not known."""
    home, complaints = Home(tmp_path), list[str]()
    (tmp_path / OFFERS_FILE).write_text("{")
    kept = Remembered(home, complaints.append)
    assert kept.read() == ()
    assert "damaged" in complaints.pop()
    gone = Remembered(Home(tmp_path / "gone"), complaints.append)
    for count in (1, 2):
        gone.keep([seen(EngineModel(f"m{count}", ("chat",)))])
    assert len(complaints) == 1
