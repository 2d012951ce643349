"""The pocket model in small, drawn at random."""

from __future__ import annotations

from dataclasses import replace

import torch

from fkv.pocket.train_model import initialise
from fkv.spec import POCKET
from fkv.wan import CausalWan

SMALL = replace(POCKET, net=replace(POCKET.net, dim=48, heads=4, layers=2, ffn=64, freq_dim=16))


def small_model(seed: int = 0) -> CausalWan:
    model = CausalWan(SMALL.net)
    initialise(model, seed)
    torch.nn.init.normal_(model.head.head.weight, std=0.2)
    torch.nn.init.normal_(model.time_projection.get_parameter("1.weight"), std=0.05)
    for learned in (model.place_embedding, model.frame_embedding):
        assert learned is not None
        torch.nn.init.normal_(learned, std=0.5)
    return model.eval()
