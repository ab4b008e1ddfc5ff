"""A run's forecast is kept with it, however it ends."""

from __future__ import annotations

import time
from pathlib import Path

from tuner.forecast.desk import Desk
from tuner.forecast.forecast import forecast
from tuner.request import Request
from tuner.runs import Registry, Store
from tuner.settings import Settings

REQUEST = Request(prompt="x", width=64, height=64, frames=5, steps=2)


def test_the_forecast_of_a_run_is_in_the_store_with_it(tmp_path: Path) -> None:
    settings = Settings(chunk_size=2)
    with Desk() as desk, Registry(tmp_path, desk) as registry:
        run = registry.submit("demo", REQUEST, settings)
        registry.cancel(run)
        end = time.monotonic() + 60
        while time.monotonic() < end and (registry.get(run) is None or registry.get(run).forecast is None):  # type: ignore[union-attr]
            time.sleep(0.05)
    store = Store(tmp_path)
    record = store.get(run)
    store.close()
    assert record is not None and record.status == "cancelled"
    assert record.forecast == forecast(REQUEST, settings, model="demo", gpu="cpu").to_json()


def test_without_a_desk_there_is_none(tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        run = registry.submit("demo", REQUEST, Settings())
        registry.cancel(run)
        record = registry.get(run)
        assert record is not None and record.forecast is None
