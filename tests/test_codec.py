"""Decoders of Wan latents: in chunks they draw what they draw as a whole, and their files are taken key by key."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fkv.codec import Taehv, WanVae, load_taehv, load_wan_vae, taehv_random
from fkv.codec.taehv import laid

ROWS, COLUMNS = 2, 3


@pytest.fixture(scope="module")
def taehv() -> Taehv:
    """Random weights whose pictures are not all of one grey."""
    codec = taehv_random()
    last = codec.decoder_stack[-1]
    assert isinstance(last, torch.nn.Conv2d)
    last.weight.mul_(100)
    assert codec.decoder().decode(latents(3)).float().std() > 20
    return codec


def latents(frames: int, channels: int = 16, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, channels, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))


def near(one: Tensor, other: Tensor) -> bool:
    """Bytes alike up to rounding: a convolution over other batch sizes may add in another order."""
    return one.shape == other.shape and bool((one.int() - other.int()).abs().max() <= 1)


@pytest.mark.parametrize("parts", [(3, 3, 1), (1, 6), (7,)])
def test_taehv_in_chunks_draws_what_it_draws_as_a_whole(taehv: Taehv, parts: tuple[int, ...]) -> None:
    z, stream = latents(7), taehv.decoder()
    drawn = torch.cat([stream.decode(chunk) for chunk in z.split(parts, dim=1)], dim=1)
    assert near(drawn, taehv.decoder().decode(z))


def test_the_first_latent_frame_is_one_pixel_frame_and_each_later_one_is_four(taehv: Taehv) -> None:
    stream = taehv.decoder()
    assert [stream.decode(latents(n)).shape[1] for n in (1, 1, 3)] == [1, 4, 12]
    assert taehv.decoder().decode(latents(3)).shape == (1, 9, 8 * ROWS, 8 * COLUMNS, 3)


def test_lanes_and_videos_of_a_batch_share_weights_and_nothing_else(taehv: Taehv) -> None:
    z = latents(4, batch=2)
    both, one = taehv.decoder(), taehv.decoder()
    half = torch.cat([both.decode(z[:, :2]), both.decode(z[:, 2:])], dim=1)
    taehv.decoder().decode(latents(3))
    assert near(half[1:], one.decode(z[1:]))


def test_a_latent_frame_changes_no_picture_before_its_own(taehv: Taehv) -> None:
    z = latents(4)
    other = z.clone()
    other[:, 3] += 1
    a, b = taehv.decoder().decode(z), taehv.decoder().decode(other)
    assert near(a[:, :9], b[:, :9])
    assert not near(a[:, 9:], b[:, 9:])


def test_taehv_encodes_four_frames_to_one_latent_frame(taehv: Taehv) -> None:
    frames = torch.randint(0, 256, (1, 9, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert taehv.encode(frames).shape == (1, 3, 16, 2, 3)
    with pytest.raises(ValueError, match="do not divide into cells"):
        taehv.encode(frames[:, :, :15])


def published(taehv: Taehv) -> dict[str, Tensor]:
    """The tensors by their published names."""
    return {name.replace("decoder_stack.", "decoder."): tensor.clone() for name, tensor in taehv.state_dict().items()}


def test_the_published_file_loads_by_its_names_and_shapes(taehv: Taehv, tmp_path: Path) -> None:
    state = published(taehv)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if name.startswith("decoder.")}
    wanted = {"decoder.1.weight": (256, 16, 3, 3), "decoder.1.bias": (256,), "decoder.22.weight": (3, 64, 3, 3), "decoder.22.bias": (3,)}
    for first, width, growth in ((3, 256, 256), (9, 128, 256), (15, 64, 128)):
        for block in range(first, first + 3):
            for layer, inputs in ((0, 2 * width), (2, width), (4, width)):
                wanted[f"decoder.{block}.conv.{layer}.weight"] = (width, inputs, 3, 3)
                wanted[f"decoder.{block}.conv.{layer}.bias"] = (width,)
        wanted[f"decoder.{first + 4}.conv.weight"] = (growth, width, 1, 1)
    for number, shape in ((8, (128, 256)), (14, (64, 128)), (20, (64, 64))):
        wanted[f"decoder.{number}.weight"] = (*shape, 3, 3)
    assert shapes == wanted
    save_file(state, tmp_path / "taew2_1.safetensors")
    assert near(load_taehv(tmp_path / "taew2_1.safetensors").decoder().decode(latents(3)), taehv.decoder().decode(latents(3)))


def test_of_a_growth_layer_stored_with_more_frames_the_last_are_used(taehv: Taehv, tmp_path: Path) -> None:
    state = published(taehv)
    small = state["decoder.7.conv.weight"]
    state["decoder.7.conv.weight"] = torch.cat((torch.zeros_like(small), small))
    save_file(state, tmp_path / "x.safetensors")
    assert near(load_taehv(tmp_path / "x.safetensors").decoder().decode(latents(2)), taehv.decoder().decode(latents(2)))


def test_other_files_are_refused_in_a_sentence(taehv: Taehv, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="is missing; run `python -m fkv fetch`"):
        load_taehv(path)
    state = published(taehv)
    del state["decoder.9.conv.0.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"tensor 'decoder\.9\.conv\.0\.bias' is missing, expected \(128,\); delete it"):
        load_taehv(path)
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match=r"is not a complete weights file .*; delete it and fetch it again"):
        load_taehv(path)


@pytest.fixture(scope="module")
def vae() -> WanVae:
    diffusers: Any = import_module("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = diffusers.AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 1.0, 0.5, 2.0],
        )
    return WanVae(made.eval().requires_grad_(False))


def test_the_wan_vae_in_chunks_is_bit_equal_to_a_whole_decode(vae: WanVae) -> None:
    z, stream = latents(7, channels=4), vae.decoder()
    drawn = []
    for chunk in z.split((3, 3, 1), dim=1):
        drawn.append(stream.decode(chunk))
        vae.decoder().decode(latents(1, channels=4))
    whole = vae.vae.decode(vae.raw(z)).sample
    pixels = (whole.clamp(-1, 1) * 0.5 + 0.5).mul(255).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
    assert torch.equal(torch.cat(drawn, dim=1), pixels)
    assert [part.shape[1] for part in drawn] == [9, 12, 4]


def test_the_wan_vae_takes_normalised_latents(vae: WanVae) -> None:
    zeros = torch.zeros(1, 1, 4, 1, 1)
    assert vae.raw(zeros).flatten().tolist() == pytest.approx([0.1, -0.2, 0.3, 0.0])
    frames = torch.randint(0, 256, (1, 5, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert vae.encode(frames).shape == (1, 2, 4, 2, 3)
    with pytest.raises(ValueError, match=r"4 frames of 16x24 cannot be encoded; use 4n \+ 1 frames"):
        vae.encode(frames[:, :4])


def test_the_wan_vae_is_read_from_its_published_folder(vae: WanVae, tmp_path: Path) -> None:
    vae.vae.save_pretrained(tmp_path / "vae")
    z = latents(2, channels=4)
    assert torch.equal(load_wan_vae(tmp_path / "vae").decoder().decode(z), vae.decoder().decode(z))
    with pytest.raises(OSError, match="holds no complete Wan VAE"):
        load_wan_vae(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda state: state.pop("decoder.conv_in.bias"), r"\(tensor 'decoder\.conv_in\.bias' is missing\)"),
        (lambda state: state.update({"decoder.conv_in.bias": torch.zeros(9)}), r"size mismatch for decoder\.conv_in\.bias"),
    ],
)
def test_a_wan_vae_with_a_tensor_missing_or_of_another_shape_is_refused(vae: WanVae, tmp_path: Path, edit: Any, complaint: str) -> None:
    vae.vae.save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(OSError, match=rf"holds no complete Wan VAE .*{complaint}.*; delete it and fetch it again$"):
        load_wan_vae(tmp_path / "vae")


def test_the_wan_vae_moves_its_mean_and_scale_to_the_device_only_once(vae: WanVae, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros, moved, to = torch.zeros(1, 1, 4, 1, 1), list[Tensor](), Tensor.to

    def watched(tensor: Tensor, *how: Any) -> Tensor:
        moved.append(tensor)
        return to(tensor, *how)

    monkeypatch.setattr(Tensor, "to", watched)
    vae.raw(zeros)
    assert not any(tensor is vae.mean or tensor is vae.scale for tensor in moved)
    assert len(moved) == 2
    assert vae.mean.device == vae.scale.device == vae.device


def test_every_layer_of_the_live_decoder_hands_on_its_channels_last_in_memory(taehv: Taehv) -> None:
    codec, last = laid(copy.deepcopy(taehv), "cpu", torch.float32), list[bool]()
    layers = list(codec.decoder_stack)[2:]  # after the latents' own convolution, which come frame by frame
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, made: last.append(all(map(channels_last, (*given, made)))))
    decoders = codec.decoder(), taehv.decoder()
    for latents in torch.randn(2, 2, 3, 16, 6, 4, generator=torch.Generator().manual_seed(0)):
        one, other = (decoder.decode(latents).int() for decoder in decoders)
        assert (one - other).abs().max() <= 1
        assert one.float().std() > 10
    assert len(last) == 2 * len(layers)
    assert all(last)


def channels_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)
