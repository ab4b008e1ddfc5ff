from __future__ import annotations

import pytest

from tuner.forecast.forecast import Forecaster


@pytest.fixture(scope="session")
def forecaster() -> Forecaster:
    """One for all tests: building the published model's shapes takes longer than most forecasts."""
    return Forecaster()
