"""What an allocator said becomes one line that helps; its advice leads down to the smallest settings."""

from __future__ import annotations

import pickle
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import OutOfMemory
from tuner.meter.events import STAGES
from tuner.pressure import asked_and_free, is_out_of_memory, next_smaller, relieved, shortage, smaller_size
from tuner.request import Request
from tuner.settings import GIB, KNOBS, Layout, Settings

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.57 GiB of which 512.00 MiB "
    "is free. Including non-PyTorch memory, this process has 22.44 GiB memory in use. Of the allocated memory "
    "20.50 GiB is allocated by PyTorch, and 1.50 GiB is reserved by PyTorch but unallocated."
)
REQUEST = Request(width=672, height=384, frames=49)


def test_the_figures_of_a_card_are_read_from_its_message() -> None:
    assert asked_and_free(CUDA) == (2 * GIB, 512 * 1024**2)
    assert asked_and_free("Tried to allocate 20.00 MiB.") == (20 * 1024**2, None)
    assert asked_and_free("anything else") == (None, None)


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(2**50, dtype=torch.uint8), lambda: np.empty(2**50, "u1")]
)
def test_the_host_allocators_are_understood(allocate) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        allocate()
    assert is_out_of_memory(raised.value)
    assert asked_and_free(str(raised.value))[0] == 2**50


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_what_libraries_say_when_memory_is_short_is_understood(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), relieved(Settings(), REQUEST):
        raise RuntimeError("shape '[2]' is invalid")


def test_the_line_has_the_stage_the_figures_and_what_to_try() -> None:
    found = shortage(torch.OutOfMemoryError(CUDA), "decode", Settings(chunk_size=4), REQUEST)
    assert str(found) == ("out of memory in stage decode: 2.00 GiB asked for, 512.00 MiB free; try chunk_size 2")
    assert (found.stage, found.asked_bytes, found.free_bytes) == ("decode", 2 * GIB, GIB // 2)
    assert found.suggestion == {"chunk_size": 2}
    again = pickle.loads(pickle.dumps(found))
    assert (str(again), vars(again)) == (str(found), vars(found))


def test_at_the_smallest_settings_a_smaller_size_is_named() -> None:
    smallest = Settings(batch_size=1, token_chunk=256, cache_capacity=0.0, prefetch=0)
    found = shortage(MemoryError(), "denoise", smallest, REQUEST, free_bytes=3 * GIB)
    assert str(found) == (
        "out of memory in stage denoise: 3.00 GiB free; these are the smallest settings: "
        "make a smaller clip, such as 496x288"
    )
    assert found.suggestion == {}


@pytest.mark.parametrize(
    ("stage", "settings", "advice"),
    [
        ("encode text", {}, {"cache_capacity": 0.0}),
        ("encode text", {"cache_capacity": 0.0}, {"prefetch": 0}),
        ("encode image", {"chunk_size": 0}, {"chunk_size": 32}),
        (
            "encode image",
            {"chunk_size": 1, "cache_capacity": 0.0, "layout": "contiguous"},
            {"layout": "chunked"},
        ),
        ("encode image", {"chunk_size": 1, "cache_capacity": 0.0, "layout": "interleaved"}, {}),
        ("decode", {"chunk_size": 64}, {"chunk_size": 32}),
        ("decode", {"chunk_size": 1}, {"cache_capacity": 8.0}),
        ("decode", {"chunk_size": 1, "cache_capacity": 0.3}, {"cache_capacity": 0.0}),
        ("decode", {"chunk_size": 1, "cache_capacity": 0.0, "layout": "contiguous"}, {"layout": "chunked"}),
        ("decode", {"chunk_size": 1, "cache_capacity": 0.0, "layout": "interleaved"}, {}),
        ("denoise", {}, {"batch_size": 1}),
        ("denoise", {"batch_size": 1}, {"token_chunk": 2048}),
        ("denoise", {"batch_size": 1, "token_chunk": 0}, {"token_chunk": 8192}),
        ("denoise", {"batch_size": 1, "token_chunk": 256}, {"cache_capacity": 8.0}),
        ("denoise", {"batch_size": 1, "token_chunk": 256, "cache_capacity": 0.0}, {"prefetch": 0}),
        ("write", {"workers": 2}, {"workers": 1}),
        ("load", {}, {}),
        ("decode", {"engine": "stock"}, {"engine": "tuned"}),
    ],
)
def test_the_next_smaller_setting_is_the_one_that_helps_there(stage, settings, advice) -> None:
    assert next_smaller(stage, Settings(**settings), REQUEST) == advice


def test_a_knob_is_lowered_from_where_it_has_an_effect() -> None:
    still = REQUEST.replace(frames=1, guidance=1.0, width=64, height=64)
    assert next_smaller("decode", Settings(chunk_size=0, cache_capacity=0.0, layout="chunked"), still) == {}
    assert next_smaller("denoise", Settings(cache_capacity=0.0, prefetch=0, token_chunk=0), still) == {}
    assert next_smaller("denoise", Settings(batch_size=16), REQUEST.replace(num_clips=3)) == {"batch_size": 3}


def test_a_cache_is_lowered_from_what_it_held() -> None:
    settings = Settings(chunk_size=1, cache_capacity=16.0)
    assert next_smaller("decode", settings, REQUEST, held_bytes=5 * GIB) == {"cache_capacity": 2.5}
    assert next_smaller("decode", settings, REQUEST, held_bytes=5 * 1024**2) == {"cache_capacity": 0.0}
    assert next_smaller("decode", settings, REQUEST, held_bytes=0) == {}


ANY_SETTINGS = st.builds(
    Settings,
    chunk_size=st.sampled_from(KNOBS["chunk_size"].choices),
    batch_size=st.integers(1, 16),
    cache_capacity=st.floats(0, 1024),
    layout=st.sampled_from(get_args(Layout)),
    token_chunk=st.sampled_from(KNOBS["token_chunk"].choices),
    prefetch=st.integers(0, 8),
    workers=st.integers(1, 64),
    engine=st.sampled_from(["tuned", "stock"]),
)


@given(st.sampled_from(STAGES), ANY_SETTINGS, st.integers(1, 4), st.sampled_from([1, 5, 49]))
def test_following_the_advice_ends_at_the_smallest_settings(stage, settings, clips, frames) -> None:
    request = REQUEST.replace(num_clips=clips, frames=frames)
    seen = [settings]
    while changes := next_smaller(stage, seen[-1], request):
        assert all(KNOBS[name].lossless for name in changes)
        assert len(changes) == 1
        smaller = seen[-1].replace(**changes)
        assert smaller not in seen, "no advice leads back"
        seen.append(smaller)
    assert len(seen) < 60
    line = str(shortage(MemoryError(), stage, seen[-1], request))
    assert "smaller" in line and "\n" not in line


@given(st.integers(1, 128), st.integers(1, 128))
def test_a_smaller_size_is_one_a_request_allows_until_there_is_none(width: int, height: int) -> None:
    request = Request(width=16 * width, height=16 * height)
    while size := smaller_size(request):
        assert size[0] * size[1] < request.width * request.height
        request = request.replace(width=size[0], height=size[1])
    assert (request.width, request.height) == (16, 16)


def test_the_error_has_an_empty_suggestion_when_nothing_is_known() -> None:
    assert OutOfMemory("no room").suggestion == {}
