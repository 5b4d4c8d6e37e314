"""Nouns follow their numbers."""

import pytest

from fapool.analysis.wording import count


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 passes"), (1, "1 pass"), (2, "2 passes"), (1024, "1,024 passes")]
)
def test_a_noun_is_in_the_plural_unless_there_is_one_of_it(number, words):
    assert count(number, "pass", "es") == words
