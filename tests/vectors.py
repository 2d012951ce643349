"""Reading golden vectors, and replaying the rollouts they hold. See golden/README.md for the format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fkv.cache import HeadGroup, Policy
from fkv.spec import ModelSpec, Schedule, WanConfig
from fkv.stream import Stream
from fkv.wan import CausalWan

GOLDEN = Path(os.environ.get("FKV_GOLDEN", Path(__file__).parent / "golden"))
ATOL = 1e-4


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = GOLDEN / f"{name}.safetensors"
    if not path.is_file():
        pytest.fail(f"golden file {path} is missing")
    with safe_open(path, "pt") as file:
        raw = file.metadata() or {}
    meta: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            meta[key] = json.loads(value)
        except json.JSONDecodeError:
            meta[key] = value
    return load_file(path), meta


def same(name: str, got: Tensor, wanted: Tensor, atol: float = ATOL) -> None:
    assert got.shape == wanted.shape, f"{name}: shape {tuple(got.shape)}, published {tuple(wanted.shape)}"
    torch.testing.assert_close(got, wanted.to(got.dtype), atol=atol, rtol=0, msg=lambda text: f"{name}: {text}")


def published(group: Tensor) -> Tensor:
    """[b, h, s, d] in the published order [b, s, h, d]."""
    return group.transpose(1, 2)


def network(meta: dict[str, Any]) -> CausalWan:
    sizes = meta["model_config"]
    config = WanConfig(
        dim=sizes["dim"], heads=sizes["num_heads"], layers=sizes["num_layers"], ffn=sizes["ffn_dim"], freq_dim=sizes["freq_dim"],
        text_dim=sizes["text_dim"], text_len=sizes["text_len"], channels=sizes["in_dim"], eps=sizes["eps"],
    )  # fmt: skip
    model = CausalWan(config)
    weights, _ = read("weights")
    model.load_state_dict(weights, strict=True)
    return model.eval().requires_grad_(False)


def row(meta: dict[str, Any], model: CausalWan) -> ModelSpec:
    height, width = meta["latent_hw"]
    schedule = Schedule(steps=tuple(meta["denoising_step_list"]), warp=meta["warp"], context=float(meta["context_noise"]))
    latent = (model.config.channels, height, width)
    return ModelSpec("golden", "Golden", model.config, schedule, "", "", chunk=meta["num_frame_per_block"], latent=latent)


class Rollout:
    """A stream fed with a file's noise, and everything it wrote in one layer, by frame."""

    def __init__(self, name: str, policy: Policy, layer: int = 1, arrange: Callable[[CausalWan], CausalWan] = lambda model: model):
        self.data, self.meta = read(name)
        self.model = arrange(network(self.meta))
        self.spec = row(self.meta, self.model)
        self.trace: list[tuple[str, Tensor]] = []
        self.stream = Stream(self.model, self.spec, self.data["text"], policy, self.noise, trace=self.trace)
        self.attended: list[int] = []
        self.written: dict[int, tuple[Tensor, Tensor]] = {}
        self.spied = layer
        self.spy()

    def noise(self, chunk: int) -> tuple[Tensor, list[Tensor]]:
        frames = slice(chunk * self.spec.chunk, (chunk + 1) * self.spec.chunk)
        return self.data["noise"][:, frames], [eps.unsqueeze(0) for eps in self.data["renoise"][chunk]]

    def spy(self) -> None:
        cache, write, tokens = self.stream.cache, self.stream.cache.write, self.spec.geometry.tokens

        def record(layer: int, k: Tensor, v: Tensor, q: Tensor) -> None:
            write(layer, k, v, q)
            if layer == self.spied:
                assert cache._commit is not None
                for frame in range(cache._commit.frames):
                    part = slice(frame * tokens, (frame + 1) * tokens)
                    self.written[cache._commit.start + frame] = published(k[:, :, part]).clone(), published(v[:, :, part]).clone()

        cache.write = record

    @property
    def blocks(self) -> int:
        return self.data["noise"].shape[1] // self.spec.chunk

    def switch_block(self) -> int | None:
        marks = self.meta.get("switch_frame_indices")
        return next(block for block in range(self.blocks) if block * self.spec.chunk >= marks[0]) if marks else None

    def play(self, watch: Any = lambda block: None, before: Any = lambda block: None) -> None:
        """All blocks, each committed at once; the prompt is switched where the file says so."""
        for block in range(self.blocks):
            if block == self.switch_block():
                self.stream.recache(text=self.data["text2"])
            before(block)
            self.attended.append(self.spec.chunk + sum(group.tokens for group in self.stream.cache.layers[0]) // self.spec.geometry.tokens)
            self.stream.step()
            self.stream.commit()
            watch(block)

    def check(self) -> None:
        """Every x0 of every block, the final latents, and every clean pass."""
        x0 = torch.cat([tensor for phase, tensor in self.trace if phase == "noisy"]).unflatten(0, (self.blocks, -1))
        clean = torch.cat([tensor for phase, tensor in self.trace if phase == "clean"])
        for block in range(self.blocks):
            same(f"x0_steps of block {block}", x0[block], self.data["x0_steps"][block])
            same(f"context_flow of block {block}", clean[block], self.data["context_flow"][block])
        same("latents", x0[:, -1].flatten(0, 1).unsqueeze(0), self.data["latents"])

    def check_written(self, frames: list[int]) -> None:
        """The published cache, which still holds those frames, against what was written for them."""
        for side, name in enumerate(("cache_k_layer1", "cache_v_layer1")):
            same(name, torch.cat([self.written[frame][side] for frame in frames], dim=1), self.data[name])

    def check_kept(self, group: HeadGroup) -> list[int]:
        """That a group's keys and values are the ones written for the frames its positions name; gives the frames."""
        tokens = self.spec.geometry.tokens
        frames = group.pos[::tokens, 0].tolist()
        same("kept keys", published(group.k), torch.cat([self.written[frame][0] for frame in frames], dim=1), 0)
        same("kept values", published(group.v), torch.cat([self.written[frame][1] for frame in frames], dim=1), 0)
        return frames
