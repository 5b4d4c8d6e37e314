"""What the engine does around its steps."""

import gc

import pytest

from fapool.runtime.engine import uncollected


def test_garbage_waits_until_the_steps_are_over_even_if_they_fail():
    with pytest.raises(RuntimeError), uncollected():
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()
