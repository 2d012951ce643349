"""Published checkpoints: small files in exactly the published layouts load key by key; anything else is refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fkv import weights
from fkv.spec import CAUSAL_FORCING, KREA, LONGLIVE, MODELS, RAVEN, ROLLING_FORCING, SELF_FORCING, Adapter, ModelSpec, WanConfig
from fkv.wan import CausalWan

NET = WanConfig(dim=24, heads=2, layers=2, ffn=32, freq_dim=8, text_dim=6, text_len=5)
CPU = torch.device("cpu")
LINEAR = [f"{kind}.{part}" for kind in ("self_attn", "cross_attn") for part in "qkvo"] + ["ffn.0", "ffn.2"]


def small(spec: ModelSpec) -> ModelSpec:
    adapter = replace(spec.adapter, rank=4, alpha=4.0) if spec.adapter else None
    return replace(spec, net=NET, adapter=adapter)


def drawn(seed: int = 1) -> dict[str, Tensor]:
    """Tensors by their published names, random."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in CausalWan(NET).state_dict().items()}


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(spec: ModelSpec, base: Path, adapter: Path | None = None, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = CausalWan(spec.net)
    weights.load(model, spec, weights.Files(base, adapter), CPU, dtype)
    return model.state_dict()


def same(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


LAYOUTS: dict[str, tuple[ModelSpec, Any]] = {
    "self-forcing": (SELF_FORCING, lambda ours, other: {"generator": prefixed(other, "model."), "generator_ema": prefixed(ours, "model.")}),
    "causal-forcing": (
        CAUSAL_FORCING,
        lambda ours, other: {
            "generator_ema": prefixed(other, "model."),
            "generator": prefixed(ours, "model._fsdp_wrapped_module."),
        },
    ),
    "rolling-forcing": (ROLLING_FORCING, lambda ours, other: {"generator_ema": prefixed(ours, "_fsdp_wrapped_module.model.")}),
    "raven, wrapped": (RAVEN, lambda ours, other: {"model": ours}),
    "raven, bare": (RAVEN, lambda ours, other: ours),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pickle_in_a_published_layout_loads_every_tensor(tmp_path: Path, layout: str) -> None:
    spec, packed = LAYOUTS[layout]
    ours = drawn()
    torch.save(packed(ours, drawn(seed=2)), tmp_path / "model.pt")
    assert same(loaded(small(spec), tmp_path / "model.pt"), ours)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_flat_safetensors_file_loads_with_and_without_its_prefix(tmp_path: Path, prefix: str) -> None:
    ours = drawn()
    save_file(prefixed(ours, prefix), tmp_path / "krea.safetensors")
    assert same(loaded(small(KREA), tmp_path / "krea.safetensors"), ours)


def test_the_old_pickle_format_loads_too(tmp_path: Path) -> None:
    ours = drawn()
    torch.save({"generator_ema": ours}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(loaded(small(SELF_FORCING), tmp_path / "old.pt"), ours)


def lora(seed: int = 3, rank: int = 4) -> dict[str, Tensor]:
    """An adapter under its published names: every linear layer of every block."""
    generator, state = torch.Generator().manual_seed(seed), CausalWan(NET).state_dict()
    found = {}
    for name in (f"blocks.{block}.{linear}" for block in range(NET.layers) for linear in LINEAR):
        outputs, inputs = state[f"{name}.weight"].shape
        found[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        found[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    return found


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_adapter_is_merged_in_float32_and_rounded_once(tmp_path: Path, wrapped: bool) -> None:
    ours, added = drawn(), lora()
    torch.save({"generator": prefixed(ours, "model.")}, tmp_path / "base.pt")
    torch.save({"generator_lora": added, "critic_lora": lora(seed=9)} if wrapped else added, tmp_path / "lora.pt")
    spec = replace(small(LONGLIVE), adapter=Adapter("lora.pt", rank=4, alpha=2.0, entry=("generator_lora",)))
    got = loaded(spec, tmp_path / "base.pt", tmp_path / "lora.pt", torch.bfloat16)
    changed = 0
    for name, tensor in ours.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in added:
            tensor, changed = tensor + 0.5 * added[f"{key}.lora_B.weight"] @ added[f"{key}.lora_A.weight"], changed + 1
        assert torch.equal(got[name], tensor.to(torch.bfloat16)), name
    assert changed == 10 * NET.layers


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda state: state.pop("base_model.model.blocks.0.ffn.0.lora_B.weight"), "has no counterpart"),
        (lambda state: state.update({"base_model.model.blocks.9.ffn.0.lora_A.weight": torch.zeros(4, 24)}), "changes no weight"),
        (lambda state: state.update(lora(rank=5)), r"is \[24, 24\] and rank 4, the file has \[24, 5\] x \[5, 24\]"),
        (lambda state: state.clear(), "no named tensors under any of"),
        (
            lambda state: [state.pop(key) for key in list(state) if "blocks.0.self_attn.q." not in key],
            r"is not complete: 1 of 2 layers are adapted, the first without is 'blocks\.1\.self_attn\.q\.weight'; fetch it again",
        ),
        (lambda state: state.update({key: tensor.char() for key, tensor in state.items()}), "in int8, expected 16-bit or 32-bit"),
        (lambda state: state.update({key: tensor * torch.nan for key, tensor in state.items()}), "base.pt with lora.pt is damaged: tensor"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, edit: Any, complaint: str) -> None:
    added = lora()
    edit(added)
    torch.save({"generator": drawn()}, tmp_path / "base.pt")
    torch.save({"generator_lora": added}, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=complaint):
        loaded(small(LONGLIVE), tmp_path / "base.pt", tmp_path / "lora.pt")


def test_the_first_missing_and_the_first_foreign_tensor_are_named_and_the_others_counted(tmp_path: Path) -> None:
    ours = drawn()
    for name in ("blocks.1.norm3.bias", "blocks.1.norm3.weight", "head.head.bias"):
        del ours[name]
    torch.save({"generator_ema": ours | {"extra": torch.zeros(2), "more": torch.zeros(1)}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"weights of another model than Self Forcing 1\.3B: ") as caught:
        loaded(small(SELF_FORCING), tmp_path / "model.pt")
    said = str(caught.value)
    assert "tensor 'blocks.1.norm3.bias' is missing, this model has [24] (and 2 more like it)" in said
    assert "tensor 'extra' is [2], this model has no such tensor (and 1 more like it)" in said
    assert said.endswith("check the file, or run `python -m fkv fetch --model self-forcing`")
    assert "\n" not in said


def test_a_checkpoint_of_another_size_is_refused_by_its_shapes(tmp_path: Path) -> None:
    torch.save({"generator_ema": drawn()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"tensor 'blocks\.0\.ffn\.0\.bias' is \[32\], this model has \[48\] \(and \d+ more like it\)"):
        loaded(replace(SELF_FORCING, net=replace(NET, ffn=48)), tmp_path / "model.pt")


@pytest.mark.parametrize(("spec", "entry"), [(SELF_FORCING, "generator"), (CAUSAL_FORCING, "generator_ema"), (LONGLIVE, "model")])
def test_other_weights_of_a_training_than_the_row_names_are_refused(tmp_path: Path, spec: ModelSpec, entry: str) -> None:
    torch.save({entry: drawn()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=rf"holds {entry}, expected {spec.entry[0]}: .*; get the published file$"):
        loaded(replace(small(spec), adapter=None), tmp_path / "model.pt")


def test_of_several_entries_a_row_takes_the_first_that_is_there(tmp_path: Path) -> None:
    ours = drawn()
    torch.save({"generator": ours, "generator_ema": drawn(seed=2)}, tmp_path / "model.pt")
    assert same(loaded(replace(small(RAVEN), entry=("student", "generator")), tmp_path / "model.pt"), ours)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda state: state.update({"head.head.bias": torch.zeros(64).char()}), "'head.head.bias' in int8, expected 16-bit or 32-bit"),
        (lambda state: state["head.head.bias"].fill_(torch.nan), "tensor 'head.head.bias' has NaN or infinite numbers; delete it"),
        (lambda state: state["head.head.bias"][:1].fill_(torch.inf), "tensor 'head.head.bias' has NaN or infinite numbers; delete it"),
        (lambda state: state.update({"model.head.head.bias": torch.zeros(64)}), "'head.head.bias' and 'model.head.head.bias'; get the"),
    ],
)
def test_weights_that_are_no_weights_are_refused(tmp_path: Path, edit: Any, complaint: str) -> None:
    ours = drawn()
    edit(ours)
    torch.save({"generator_ema": ours}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=complaint):
        loaded(small(SELF_FORCING), tmp_path / "model.pt")


WEB = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 5676334208\n"


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize(
    ("held", "what"),
    [
        (WEB, " is an HTML page, not weights"),
        (POINTER, " is a git-lfs pointer, not the weights it stands for"),
        (b"", r" \(0 bytes\) is not a complete weights file \(it is empty\)"),
        *((held, " is not a complete weights file .it is cut short or damaged.") for held in (b"x", b"\x80", b"PK\x03\x04", bytes(999))),
    ],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(tmp_path: Path, name: str, held: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(held)
    with pytest.raises(ValueError, match=rf"{name}.*{what}; delete it and fetch it again$"):
        loaded(small(SELF_FORCING), tmp_path / name)


@pytest.mark.parametrize("pack", [lambda tensor: {1: tensor}, lambda tensor: {"generator_ema": {1: tensor}}])
def test_tensors_under_numbers_instead_of_names_are_refused(tmp_path: Path, pack: Any) -> None:
    torch.save(pack(torch.zeros(3)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="has no named tensors under any of generator_ema, generator, model; it holds:"):
        loaded(small(SELF_FORCING), tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_a_truncated_file_is_called_incomplete(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save({"generator_ema": drawn()}, path)
    else:
        save_file(drawn(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ValueError, match=r"is not a complete weights file \(it is (empty|cut short or damaged)\); delete it and fetch it again$"
    ):
        loaded(small(SELF_FORCING), path)


class Gadget:
    """What a malicious pickle would hold."""


def test_a_pickle_with_other_things_than_tensors_is_not_opened(tmp_path: Path) -> None:
    torch.save({"generator_ema": {"a": Gadget()}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds Python objects besides tensors and is not opened"):
        loaded(small(SELF_FORCING), tmp_path / "model.pt")


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"step": 7, "optimizer": {"lr": 1.0}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"no named tensors under any of generator_ema, generator, model; it holds: step, optimizer;"):
        loaded(small(SELF_FORCING), tmp_path / "model.pt")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
def test_the_file_is_mapped_and_not_copied_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"generator_ema": drawn()}, tmp_path / "model.pt")
    fill, mapped = weights.fill, list[bool]()

    def look(model: torch.nn.Module, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype, source: str) -> None:
        lines = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("model.pt")]
        spans = [tuple(int(end, 16) for end in line.split("-")) for line in lines]
        mapped.extend(any(low <= tensor.data_ptr() < high for low, high in spans) for tensor in state.values())
        fill(model, state, device, dtype, source)

    monkeypatch.setattr(weights, "fill", look)
    loaded(small(SELF_FORCING), tmp_path / "model.pt", dtype=torch.bfloat16)
    assert len(mapped) == 27 * NET.layers + 15
    assert all(mapped)


def published_table(net: WanConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Wan 2.1 text-to-video checkpoint, written out."""
    d, table = net.dim, dict[str, tuple[int, ...]]()

    def linear(name: str, outputs: int, inputs: int) -> None:
        table[f"{name}.weight"], table[f"{name}.bias"] = (outputs, inputs), (outputs,)

    table["patch_embedding.weight"], table["patch_embedding.bias"] = (d, 16, 1, 2, 2), (d,)
    linear("text_embedding.0", d, 4096)
    linear("text_embedding.2", d, d)
    linear("time_embedding.0", d, 256)
    linear("time_embedding.2", d, d)
    linear("time_projection.1", 6 * d, d)
    for block in (f"blocks.{number}" for number in range(net.layers)):
        table[f"{block}.modulation"] = (1, 6, d)
        for kind in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{block}.{kind}.{part}", d, d)
            table[f"{block}.{kind}.norm_q.weight"] = table[f"{block}.{kind}.norm_k.weight"] = (d,)
        table[f"{block}.norm3.weight"] = table[f"{block}.norm3.bias"] = (d,)
        linear(f"{block}.ffn.0", net.ffn, d)
        linear(f"{block}.ffn.2", d, net.ffn)
    table["head.modulation"] = (1, 2, d)
    linear("head.head", 64, d)
    return table


@pytest.mark.parametrize(("spec", "tensors", "billions"), [(SELF_FORCING, 825, 1.4190), (KREA, 1095, 14.288)])
def test_the_network_has_the_published_tensors_at_their_true_sizes(spec: ModelSpec, tensors: int, billions: float) -> None:
    with torch.device("meta"):
        model = CausalWan(spec.net)
    assert weights.shapes(model) == published_table(spec.net)
    assert len(weights.shapes(model)) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)


def test_sizes_of_longlive_are_those_of_one_float32_copy_and_two_adapters_of_rank_256() -> None:
    table = published_table(LONGLIVE.net)
    assert LONGLIVE.size_bytes == pytest.approx(4 * sum(int(torch.Size(shape).numel()) for shape in table.values()), rel=1e-3)
    assert LONGLIVE.adapter is not None
    linear = [shape for name, shape in table.items() if name.endswith(".weight") and any(f".{part}.weight" in name for part in LINEAR)]
    assert len(linear) == 300
    pair = sum(LONGLIVE.adapter.rank * (outputs + inputs) for outputs, inputs in linear)
    assert LONGLIVE.adapter.size_bytes == pytest.approx(2 * 4 * pair, rel=1e-3)


def test_a_model_whose_files_are_absent_is_named_with_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for spec in MODELS[1:]:
        assert weights.missing(spec) == weights.names(spec)
        with pytest.raises(FileNotFoundError, match=rf"is not on this machine; run `python -m fkv fetch --model {spec.name}`"):
            weights.here(spec)
