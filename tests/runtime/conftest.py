"""One crew of four rank processes for all tests of the runtime; started when first needed."""

from collections.abc import Iterator

import pytest

from tests.runtime.crew import Crew


@pytest.fixture(scope="session")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    crew = Crew(4, tmp_path_factory.mktemp("crew"))
    yield crew
    crew.close()
