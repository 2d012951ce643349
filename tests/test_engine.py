"""Loading a model: what fits loads, what does not is refused in a sentence; the lock is fair."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fkv import engine
from fkv.heads import HeadProfile
from fkv.spec import POCKET, ModelSpec, WanConfig

NET = WanConfig(dim=32, heads=2, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SMALL = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None)


def shipped(tmp_path: Path, **tensors: torch.Tensor | None) -> ModelSpec:
    """A row whose weights lie in `tmp_path`; a tensor given as None is left out."""
    loaded = engine.load(SMALL, "cpu", random_weights=True)
    state = {name: tensor.half() for name, tensor in loaded.model.state_dict().items()}
    state |= {name.replace("__", "."): tensor for name, tensor in tensors.items() if tensor is not None}
    for name in (name.replace("__", ".") for name, tensor in tensors.items() if tensor is None):
        del state[name]
    save_file(state, tmp_path / "model.safetensors")
    codec = loaded.codec
    assert isinstance(codec, torch.nn.Module)
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    return replace(SMALL, file=str(tmp_path))


def test_shipped_weights_are_loaded_into_the_precision_asked_for(tmp_path: Path) -> None:
    bias = torch.full((32,), 0.5)
    loaded = engine.load(shipped(tmp_path, blocks__0__ffn__2__bias=bias), "cpu", torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
    assert torch.equal(loaded.model.state_dict()["blocks.0.ffn.2.bias"].float(), bias)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_random_weights_are_the_same_each_time_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, two = (engine.load(SMALL, "cpu", random_weights=True).model.state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_missing_weights_are_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing; restore it"):
        engine.load(replace(SMALL, file=str(tmp_path)), "cpu")


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    spec = shipped(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        engine.load(spec, "cpu")


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [(torch.zeros(3), r"is \[3\], this model has \[32\]"), (None, r"is missing, this model has \[32\]")],
)
def test_weights_of_another_model_are_refused_by_the_first_tensor_that_differs(
    tmp_path: Path, tensor: torch.Tensor | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match="'blocks.1.norm3.weight' " + complaint):
        engine.load(shipped(tmp_path, blocks__1__norm3__weight=tensor), "cpu")


def test_a_tensor_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'extra' is \[1\], this model has no such tensor"):
        engine.load(shipped(tmp_path, extra=torch.zeros(1)), "cpu")


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text(HeadProfile.of_scores("other", [[0.1, 0.9, 0.5]] * 2).to_json())
    with pytest.raises(ValueError, match="3 heads a layer, the model 2"):
        engine.load(replace(SMALL, heads=str(path)), "cpu", random_weights=True)


@pytest.mark.parametrize("name", ["tpu9", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use auto"):
        engine.load(SMALL, name, random_weights=True)


def test_an_unknown_model_or_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of: pocket"):
        engine.load("nemo", "cpu")
    with pytest.raises(ValueError, match="codec 'vhs' of model 'small' is unknown; use one of: pocket"):
        engine.load(replace(SMALL, codec="vhs"), "cpu", random_weights=True)


def test_turns_are_taken_in_the_order_of_asking() -> None:
    turns, order = engine.Turns(), list[int]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns.waiting) < number + 2:
                pass
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]
