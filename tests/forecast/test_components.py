from __future__ import annotations

import pytest
import torch

from tuner.forecast.components import fake_components
from tuner.forecast.host import HostTensor
from tuner.models.load import load_model
from tuner.models.registry import find_model, list_models

TEXT_PARAMETERS = {"v5": [352_035_840, 1_669_958_656], "v5.1": [6_837_557_760]}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("info", list_models()[1:], ids=lambda info: info.name)
def test_published_models_have_their_parameters_and_no_bytes(info, monkeypatch, tmp_path):
    monkeypatch.setenv("TUNER_MODELS", str(tmp_path))
    parts = fake_components(info, torch.bfloat16)
    encoders = [encoder for encoder in (parts.text_encoder, parts.text_encoder_2) if encoder is not None]
    assert count(parts.transformer) == info.parameters
    assert count(parts.vae) == 244_375_507
    assert [count(encoder) for encoder in encoders] == TEXT_PARAMETERS[info.family]
    for module in (parts.transformer, parts.vae, *encoders):
        assert all(isinstance(parameter.data, HostTensor) for parameter in module.parameters())
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_an_installed_model_is_like_its_loaded_self():
    fake, real = fake_components(find_model("demo"), torch.float32), load_model("demo", device="cpu")
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        shapes = [
            {name: (tensor.shape, tensor.dtype) for name, tensor in getattr(parts, part).state_dict().items()}
            for parts in (fake, real)
        ]
        assert shapes[0] == shapes[1]
    assert fake.tokenizer.model_max_length == real.tokenizer.model_max_length
    assert fake.tokenizer_2 is not None and real.tokenizer_2 is not None
    assert fake.tokenizer_2.model_max_length == real.tokenizer_2.model_max_length
    assert fake.scheduler_config == real.scheduler_config


def test_float16_keeps_the_layers_of_t5_that_overflow():
    parts = fake_components(find_model("easyanimate-v5-7b-inp"), torch.float16)
    assert parts.text_encoder_2 is not None
    wide = {name for name, tensor in parts.text_encoder_2.named_parameters() if tensor.dtype == torch.float32}
    assert wide and all(".wo." in name for name in wide)
