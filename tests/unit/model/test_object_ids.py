"""Ids of stored objects."""

import re
from concurrent.futures import ThreadPoolExecutor

from potluck.model.ids import new_id


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    """Many in one millisecond too: lists and exports go by them."""
    made = [new_id("mdl") for _ in range(5_000)]
    assert made == sorted(made)
    assert all(re.fullmatch(r"mdl_[0-9a-z]{21}", each) for each in made)


def test_ids_of_many_threads_differ() -> None:
    """None is given out twice."""
    with ThreadPoolExecutor(8) as threads:
        made = [each for some in threads.map(lambda _: [new_id("key") for _ in range(500)], range(8)) for each in some]
    assert len(set(made)) == len(made)
