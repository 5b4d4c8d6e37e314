"""A workbench on ranks that are not there."""

import pytest

from tests.widgets.fake_ranks import FakeRanks
from widgets import Workbench


@pytest.fixture
def ranks() -> FakeRanks:
    return FakeRanks(4)


@pytest.fixture
def workbench(profiles, ranks) -> Workbench:
    made = Workbench(store=profiles, ranks=ranks)
    made.set(model="tiny", context=128, threshold=64, output=4)
    return made
