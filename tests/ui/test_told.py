"""What a run says is said in Chinese too."""

from __future__ import annotations

import re

import pytest

from tuner.meter.events import STAGES
from tuner.pressure import shortage
from tuner.request import Request
from tuner.runs.resume import Reached
from tuner.settings import Settings
from tuner.ui.live import again
from tuner.ui.told import in_chinese

SMALLEST = Settings(
    batch_size=1, chunk_size=1, cache_capacity=0.0, prefetch=0, token_chunk=256, layout="chunked", workers=1
)
FULL = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. ... of which 512.00 MiB is free.")
ENGLISH = re.compile(r"\b(out of memory|asked|free|try|smaller|setting|stage)\b")


@pytest.mark.parametrize(
    "settings", [Settings(), SMALLEST, Settings(engine="stock")], ids=["default", "least", "stock"]
)
@pytest.mark.parametrize("stage", STAGES)
def test_no_english_is_left_of_a_run_out_of_memory(stage, settings) -> None:
    for error in (FULL, MemoryError()):
        for size in (16, 512):
            line = in_chinese(str(shortage(error, stage, settings, Request(width=size, height=size))))
            assert not ENGLISH.search(line), line
            assert "内存不足" in line and "\n" not in line


def test_a_line_has_the_knobs_name_on_the_page() -> None:
    line = str(shortage(FULL, "decode", Settings(), Request()))
    assert in_chinese(line) == "“解码”阶段内存不足：需要 2.00 GiB，可用 512.00 MiB；可尝试：分块大小 2"


@pytest.mark.parametrize(
    "message",
    [
        "the host ran out of memory",
        "resumed after step 3 of 30",
        "resumed with all 30 steps done",
        "the latents are not kept: cannot write /data: No space left on device",
        "prompt: 300 tokens, of which BertTokenizer reads the first 77",
        "cancelled before it began",
        "the server was stopped",
        "the program that ran it ended",
        "the worker process was ended by SIGKILL; the system may have run out of memory",
        "the worker process ended unexpectedly (exit code 1)",
        "cache_capacity: 100.0 is not allowed; allowed: 0 to 24.0 GiB on this card",
        "resume: 'x' is not allowed; allowed: a run that ended early; this one is done",
    ],
)
def test_what_a_run_may_say_is_said_in_chinese(message: str) -> None:
    assert re.search(r"[\u4e00-\u9fff]", in_chinese(message))


def test_what_is_not_known_stays_as_it_is() -> None:
    assert in_chinese("internal error: KeyError: 3") == "internal error: KeyError: 3"


@pytest.mark.parametrize(
    ("kept", "suggestion", "label", "about"),
    [
        (Reached(12, 25), {"chunk_size": 2}, "resume_smaller", "chunk_size 2 · from step 13 of 25"),
        (
            Reached(25, 25),
            {"chunk_size": 2},
            "resume_smaller",
            "chunk_size 2 · from decoding: all 25 steps are done",
        ),
        (Reached(12, 25), {}, "resume", "from step 13 of 25"),
        (None, {"batch_size": 1}, "retry_smaller", "batch_size 1"),
    ],
)
def test_what_is_offered_says_what_it_will_do(kept, suggestion, label, about) -> None:
    offered = again(kept, suggestion)
    assert offered is not None
    assert (offered["label"], offered["about"]["en"]) == (label, about)
    assert re.search(r"[\u4e00-\u9fff]", offered["about"]["zh"])


def test_where_nothing_was_reached_and_nothing_is_smaller_nothing_is_offered() -> None:
    assert again(None, {}) is None
