import pytest

from tests.conftest import SMALL, make_config


@pytest.fixture(scope="session")
def config():
    return make_config(**{**SMALL, "training": {**SMALL["training"], "steps": 2}})
