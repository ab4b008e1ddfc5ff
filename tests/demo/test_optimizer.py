from __future__ import annotations

import torch
from torch import nn

from tuner.demo.optimizer import Optimizer


def changed(model: nn.Module, rate: float, done: int, steps: int = 1000) -> dict[str, torch.Tensor]:
    """By how much one step changes each weight."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = Optimizer(model, rate, steps)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step(done)
    return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}


def test_a_convolution_changes_alike_in_every_direction():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Conv3d(8, 16, 3)
    change = changed(model, 0.1, 200)["weight"].flatten(1)
    sizes = torch.linalg.svdvals(change)
    assert sizes.max() < 2 * sizes.min()


def test_embeddings_and_biases_are_left_to_adam():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(32, 8), nn.Linear(8, 8))
    change = changed(model, 0.1, 200)
    for name in ("0.weight", "1.bias"):
        assert torch.allclose(change[name].abs(), torch.tensor(0.1), rtol=0.05)


def test_the_rate_rises_then_falls():
    sizes = [
        float(changed(nn.Linear(8, 8, bias=True), 0.1, done)["bias"].abs().max())
        for done in (0, 100, 200, 600, 999)
    ]
    assert sizes[0] < sizes[1] < sizes[2] > sizes[3] > sizes[4] > 0
