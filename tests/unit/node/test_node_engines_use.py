"""Use of the engines by others than the node: what gives it away, and what must not be taken for it."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.model.engine import EngineLoad
from potluck.node.engines_use import AFTERMATH_S, CALLED_S, LAG_S, LocalUse


def test_more_work_than_ours_is_somebody_elses() -> None:
    """Running or queued beyond the node's own calls."""
    use = LocalUse()
    use.note("e", EngineLoad(running=1, queued=0), ["m"], 0.0)
    assert use.ago_s(0.0) is None
    use.note("e", EngineLoad(running=1, queued=1), ["m"], 1.0)
    assert use.ago_s(3.0) == 2.0


def test_old_numbers_accuse_nobody() -> None:
    """The engine still counts a call of ours that has just ended; later it is somebody's."""
    use = LocalUse()
    use.note("e", EngineLoad(running=2), ["m", "m"], 0.0)
    use.note("e", EngineLoad(running=2), [], 100.0)
    use.note("e", EngineLoad(running=2), [], 100.0 + LAG_S - 0.1)
    assert use.ago_s(200.0) is None
    use.note("e", EngineLoad(running=2), [], 100.1 + LAG_S)
    assert use.ago_s(100.1 + LAG_S) == 0.0


def test_koboldcpp_tells_when_it_worked_last() -> None:
    """Idle for 3 s, and the node's last call was long ago: somebody was there 3 s ago."""
    use = LocalUse()
    use.note("e", EngineLoad(running=0, idle_s=500.0), ["m"], 1000.0)
    use.note("e", EngineLoad(running=0, idle_s=3.0), [], 1004.0)
    assert use.ago_s(1004.0) is None
    use.note("e", EngineLoad(running=0, idle_s=3.0), [], 1100.0)
    assert use.ago_s(1100.0) == 3.0


def test_a_model_that_appears_uncalled_is_somebodys() -> None:
    """Ollama's only sign; what the node called for may take its time to appear, what was there before says nothing."""
    use = LocalUse()
    use.note("e", EngineLoad(resident=("old",)), [], 0.0)
    use.note("e", EngineLoad(resident=("old",)), ["slow"], 1.0)
    use.note("e", EngineLoad(resident=("old", "slow")), [], CALLED_S)
    assert use.ago_s(CALLED_S) is None
    use.note("e", EngineLoad(resident=("old", "slow", "theirs")), [], CALLED_S + 1)
    assert use.ago_s(CALLED_S + 1) == 0.0
    use.note("e", EngineLoad(), [], CALLED_S + 50)
    use.note("e", EngineLoad(resident=("old", "theirs")), [], CALLED_S + 51)
    assert use.ago_s(CALLED_S + 51) == 50.0


def test_processes_that_work_uncalled_give_an_engine_away() -> None:
    """Only of an engine that does not tell itself, and not right after a call of ours."""
    use = LocalUse()
    use.note("telling", EngineLoad(running=0), [], 0.0)
    use.note_work(3.0, 100.0)
    assert use.ago_s(100.0) is None
    use.note("silent", EngineLoad(), ["m"], 100.0)
    use.note_work(3.0, 100.0 + AFTERMATH_S)
    use.note_work(0.1, 101.0 + AFTERMATH_S)
    use.note_work(None, 101.0 + AFTERMATH_S)
    assert use.ago_s(200.0) is None
    use.note_work(3.0, 101.0 + AFTERMATH_S)
    assert use.ago_s(101.0 + AFTERMATH_S) == 0.0


def test_an_engine_that_went_is_forgotten() -> None:
    """What it had in memory says nothing about another start of it."""
    use = LocalUse()
    use.note("e", EngineLoad(resident=()), [], 0.0)
    use.forget([])
    use.note("e", EngineLoad(resident=("m",)), [], 1.0)
    assert use.ago_s(1.0) is None


calls = st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 4)), max_size=30)


@given(calls, st.lists(st.floats(0, LAG_S), min_size=30, max_size=30))
def test_the_node_never_takes_itself_for_its_owner(story: list[tuple[float, int]], lags: list[float]) -> None:
    """However late an engine's number is within the lag, the node's own calls are not somebody else's."""
    use, now_s = LocalUse(), 0.0
    history = [(0.0, 0)]
    for (step_s, count), lag_s in zip(story, lags, strict=False):
        now_s += step_s
        history.append((now_s, count))
        then = [each for at_s, each in history if at_s <= now_s - lag_s]
        use.note("e", EngineLoad(running=then[-1] if then else 0), ["m"] * count, now_s)
        assert use.ago_s(now_s) is None
