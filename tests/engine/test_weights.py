"""Blocks on the device: a prefix stays, the others take turns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tuner.engine.packed import PackedModule
from tuner.engine.placement import Placement
from tuner.engine.weights import BlockWeights

WIDTHS = [4, 8, 8, 4, 8]


class Chain(nn.Module):
    """Layers of different sizes, each with its number as its only weight."""

    def __init__(self, widths: list[int] = WIDTHS) -> None:
        super().__init__()
        for number, width in enumerate(widths):
            layer = nn.Linear(1, 64 * width, bias=False)
            nn.init.constant_(layer.weight, number)
            self.add_module(str(number), layer.requires_grad_(False))

    def forward(self) -> list[float]:
        return [layer(torch.ones(1)).mean().item() for layer in self.children()]


def weights_of(chain: Chain, resident: int = 0, prefetch: int = 1, device: str = "cpu") -> BlockWeights:
    blocks, placement = list(chain.children()), Placement(device)
    capacity = sum(block.weight.nbytes for block in blocks[:resident])
    packed = [PackedModule(block, placement) for block in blocks]
    return BlockWeights(packed, placement, capacity, prefetch, placement.meter.caches["weights"])


def one_pass(weights: BlockWeights, until: int | None = None) -> list[float]:
    seen = []
    for index in range(len(weights)):
        with weights.on_device(index) as block:
            seen.append(block.weight.mean().item())
            if index == until:
                raise InterruptedError
    return seen


def copied(weights: BlockWeights) -> int:
    return weights._placement.meter.measured()["transfers"]["h2d_count"]


@given(st.lists(st.sampled_from([None, 0, 1, 3, 4]), max_size=8), st.integers(0, 5), st.integers(0, 6))
def test_every_block_finds_its_own_weights_though_passes_are_cut_short(cuts, resident, prefetch):
    chain = Chain()
    weights = weights_of(chain, resident, prefetch)
    for cut in [*cuts, None]:
        if cut is None:
            assert one_pass(weights) == [0, 1, 2, 3, 4]
        else:
            with pytest.raises(InterruptedError):
                one_pass(weights, until=cut)
    weights.close()
    assert chain() == [0, 1, 2, 3, 4], "they have their own weights back"


@pytest.mark.parametrize("resident", range(6))
@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
def test_a_pass_copies_exactly_the_blocks_that_do_not_stay(resident, prefetch):
    weights = weights_of(Chain(), resident, prefetch)
    one_pass(weights)
    before = copied(weights)
    for _ in range(3):
        one_pass(weights)
    streamed = len(WIDTHS) - resident
    fits = streamed <= prefetch + 1
    assert copied(weights) - before == (0 if fits else 3 * streamed)


def test_the_first_blocks_of_the_next_pass_are_fetched_during_the_last_of_this_one():
    weights = weights_of(Chain(), prefetch=2)
    one_pass(weights)
    assert copied(weights) == len(WIDTHS) + 2


def test_hits_are_uses_of_what_was_there_misses_are_copies():
    weights = weights_of(Chain(), resident=2, prefetch=0)
    for _ in range(3):
        one_pass(weights)
    counter = weights._counter
    assert (counter.hits, counter.misses, counter.evictions) == (2 * 2, 2 + 3 * 3, 3 * 3 - 1)
    assert counter.held_bytes == (4 + 8) * 64 * 4
    weights.close()
    assert counter.held_bytes == 0


def test_a_model_that_calls_its_blocks_itself_finds_their_weights_even_after_an_error():
    chain = Chain()
    weights = weights_of(chain)
    third = chain.get_submodule("2")

    def fail(*_: object) -> None:
        raise InterruptedError

    with weights.during_forward():
        assert chain() == [0, 1, 2, 3, 4]
        hook = third.register_forward_hook(fail)
        with pytest.raises(InterruptedError):
            chain()
        hook.remove()
        assert chain() == [0, 1, 2, 3, 4]
    weights.close()
    assert chain() == [0, 1, 2, 3, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_on_a_card_no_copy_overwrites_what_is_still_in_use(prefetch):
    torch.manual_seed(0)
    blocks = [nn.Linear(2048, 2048, bias=False).requires_grad_(False) for _ in range(6)]
    expected = [(block.weight.double() / 64).sum().item() for block in blocks]
    placement = Placement("cuda")
    packed = [PackedModule(block, placement) for block in blocks]
    weights = BlockWeights(packed, placement, packed[0].nbytes, prefetch, placement.meter.caches["weights"])
    load = torch.randn(4096, 4096, device="cuda")
    sums = []
    for _ in range(5):
        for index in range(len(weights)):
            with weights.on_device(index) as block:
                for _ in range(4):  # keeps the card behind the host
                    load = torch.tanh(load @ load)
                sums.append((block.weight.double() / 64).sum())
    weights.close()
    torch.testing.assert_close(torch.stack(sums).cpu(), torch.tensor(expected * 5, dtype=torch.float64))
