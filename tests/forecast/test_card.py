from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tuner.forecast.card import LARGEST_REAL_BYTES, FakeCard, FusedAttention
from tuner.forecast.host import HostTensor, weight
from tuner.forecast.trace import Born, Copied, Died, Ran


@pytest.fixture
def card():
    card = FakeCard()
    with card.watching(), FusedAttention(is_cpu=False):
        yield card


def ran(card: FakeCard) -> list[Ran]:
    return [entry for entry in card.entries if isinstance(entry, Ran)]


def test_bytes_are_those_of_live_storages(card):
    base = torch.empty(100, 10, device="meta")
    view, product = base[:50], base * 2
    del base
    assert card.allocated == 8000
    del view
    assert card.allocated == 4000
    assert card.peak() == (8000, 8000)
    del product
    assert card.allocated == 0
    assert [type(entry) for entry in card.entries if not isinstance(entry, Ran)] == [Born, Born, Died, Died]


def test_a_peak_begins_anew_at_what_is_held(card):
    held = torch.empty(25, device="meta")
    torch.empty(1000, device="meta")
    card.start_peak()
    assert card.peak()[0] == held.nbytes


def test_a_product_costs_its_multiplications_and_its_bytes(card):
    x, weight, bias = (torch.empty(*shape, device="meta") for shape in ((8, 16), (32, 16), (32,)))
    card.entries.clear()
    functional.linear(x, weight, bias)
    (cost,) = ran(card)
    assert cost.work == "matmul"
    assert cost.flops == 2 * 8 * 16 * 32
    assert cost.bytes == 4 * (8 * 16 + 32 * 16 + 32 + 8 * 32)


def test_attention_is_one_kernel_and_never_holds_the_scores(card):
    query = torch.empty(1, 2, 4096, 64, dtype=torch.bfloat16, device="meta")
    card.start_peak()
    functional.scaled_dot_product_attention(query, query, query)
    scores = 2 * 4096 * 4096 * 2
    assert card.peak()[0] - query.nbytes < scores / 10
    assert [cost.work for cost in ran(card) if cost.flops] == ["attention"]
    assert ran(card)[-1].flops == 2 * 2 * 2 * 4096 * 4096 * 64


def test_attention_spelled_out_holds_the_scores(card):
    query = torch.empty(1, 2, 256, 64, device="meta")
    card.start_peak()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        functional.scaled_dot_product_attention(query, query, query)
    assert card.peak()[0] >= 2 * 256 * 256 * 4


@pytest.mark.parametrize("on_host", [torch.ones(4), weight((4,), torch.float32)], ids=["small", "large"])
def test_host_and_card_do_not_mix(on_host, card):
    on_card = torch.empty(4, device="meta")
    with pytest.raises(RuntimeError, match="host and of the card"):
        on_card + on_host
    assert (on_card * torch.tensor(2.0)).device.type == "meta"  # a number may


def test_copies_in_both_directions_are_transfers():
    weights, card = weight((1000,), torch.float32), FakeCard()
    with card.watching():
        there = weights.to("meta")
        back = there.to("cpu")
        there.copy_(weights)
        torch.empty_like(weights, device="meta")
    assert isinstance(back, HostTensor)
    assert [entry for entry in card.entries if isinstance(entry, Copied)] == [
        Copied("h2d", 4000),
        Copied("d2h", 4000),
        Copied("h2d", 4000),
    ]
    assert card.allocated == 4000


def test_small_host_tensors_compute_and_large_ones_are_not_made(card):
    assert torch.arange(4).sum().item() == 6
    large = torch.full((LARGEST_REAL_BYTES,), 1.0)
    assert isinstance(large, HostTensor)
    assert isinstance(large * torch.ones(1), HostTensor)
    assert card.entries == []


def test_forms_are_those_that_real_tensors_get():
    def work(x: torch.Tensor, kernel: torch.Tensor) -> list[torch.Tensor]:
        convolved = functional.conv2d(x, kernel, padding=1)
        normed = functional.group_norm(convolved, 2).contiguous(memory_format=torch.channels_last)
        larger = functional.interpolate(normed, scale_factor=2, mode="nearest")
        rows = functional.layer_norm(larger.flatten(2).transpose(1, 2), (4,))
        return [convolved, normed, larger, rows, torch.cat([rows, rows], 1), rows.softmax(-1).chunk(2)[0]]

    with torch.no_grad():
        real = work(torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3))
    with FakeCard().watching():
        fake = work(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta"))
        twice = work(torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta"))
    for tensors in (fake, twice):
        assert [(x.shape, x.stride(), x.dtype) for x in tensors] == [(x.shape, x.stride(), x.dtype) for x in real]
