from __future__ import annotations

import time

import pytest
import torch

from tuner.errors import Cancelled
from tuner.meter.events import MemorySample, StageStarted, StepDone, Transferred, from_json, to_json
from tuner.meter.meter import Meter

CPU = torch.device("cpu")


def test_a_run_is_told_in_order_and_its_stages_have_peaks_of_their_own():
    events = []
    with Meter(CPU, events.append) as meter:
        with meter.stage("encode text"):
            torch.ones(1000)
        with meter.stage("denoise"):
            for step in (1, 2):
                with meter.step(step, 2):
                    torch.ones(10)
                    meter.transferred("h2d", 5)
    measured = meter.measured()
    assert [stage["peak_allocated_bytes"] for stage in measured["stages"]] == [4000, 40]
    assert measured["peak_allocated_bytes"] == 4000
    assert len(measured["step_seconds"]) == 2
    assert measured["transfers"]["h2d_bytes"] == 10
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["encode text", "denoise"]
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2]
    assert sum(event.bytes for event in events if isinstance(event, Transferred)) == 10
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_memory_is_sampled_while_the_run_lasts_and_not_after():
    events = []
    with Meter(CPU, events.append):
        kept = torch.ones(1000)
        time.sleep(0.3)
    samples = [event for event in events if isinstance(event, MemorySample)]
    assert len(samples) >= 3
    assert samples[-1].allocated == kept.nbytes
    assert all(sample.host_rss > 1e6 for sample in samples)
    count = len(events)
    time.sleep(0.15)
    assert len(events) == count


def test_a_checkpoint_stops_the_run_when_asked():
    meter = Meter(CPU, should_stop=lambda: True)
    with pytest.raises(Cancelled):
        meter.checkpoint()


def test_events_survive_json():
    for event in (StageStarted(0.5, "decode"), StepDone(1.0, 1, 2, 0.25), MemorySample(2.0, 1, 2, 3)):
        assert from_json(to_json(event)) == event
