"""Loading a model: what fits loads, what does not is refused in a sentence; the lock is fair."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fkv import advice, engine, parts, planner
from fkv.heads import HeadProfile
from fkv.policies import parse
from fkv.rolling import stream_class
from fkv.spec import MODELS, POCKET, ModelSpec, WanConfig, find
from fkv.stream import seeded_noise

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


def test_pieces_of_the_wrong_names_are_counted(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'blocks\.1\.norm3\.bias' is missing, this model has \[32\] \(and 1 more like it\); tensor 'extra'"
    ):
        engine.load(shipped(tmp_path, blocks__1__norm3__weight=None, blocks__1__norm3__bias=None, extra=torch.zeros(1)), "cpu")


@pytest.mark.parametrize("name", [spec.name for spec in MODELS[1:]])
def test_every_published_row_runs_with_random_weights_at_a_reduced_size(name: str) -> None:
    spec = find(name)
    net = replace(spec.net, dim=32, heads=2, layers=2, ffn=32, freq_dim=16, text_dim=12, text_len=6)
    loaded = engine.load(replace(spec, net=net, latent=(16, 4, 6), heads=None), "cpu", random_weights=True)
    prompt = loaded.text.encode(loaded.text.examples[0])
    assert prompt.embedding.shape == (1, 6, 12)
    stream = stream_class(loaded.spec)(
        loaded.model, loaded.spec, prompt.embedding, parse(f"full:{spec.window}"), seeded_noise(0, loaded.spec)
    )
    decoder = loaded.codec.decoder()
    assert [decoder.decode(stream.step().latents).shape[1:] for _ in range(2)] == [(9, 32, 48, 3), (12, 32, 48, 3)]


@pytest.mark.parametrize("name", [spec.name for spec in MODELS[1:]])
def test_a_published_model_that_is_not_here_is_refused_with_the_command_that_fetches_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(parts, "memory", lambda device: 0)
    with pytest.raises(FileNotFoundError, match=rf"cannot be loaded: .* is not on this machine; run `python -m fkv fetch --model {name}`"):
        engine.load(name, "cpu")


def test_what_can_be_chosen_is_listed_with_what_keeps_the_rest_from_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(parts, "memory", lambda device: 40 * 10**9)
    rows = {row.spec.name: row.reason for row in engine.available("cpu")}
    assert list(rows) == [spec.name for spec in MODELS]
    assert rows["pocket"] == ""
    assert "checkpoints/self_forcing_dmd.pt of gdhe17/Self-Forcing is not on this machine; run `python -m fkv fetch" in rows["self-forcing"]
    assert "its weights need 57.2 GB and cpu has 40.0 GB; use a smaller model" in rows["krea-14b"]


def test_a_model_whose_weights_are_more_than_the_memory_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "memory", lambda device: 10**9)
    with pytest.raises(ValueError, match=r"Self Forcing 1\.3B cannot be loaded: its weights need 5\.7 GB and cpu has 1\.0 GB"):
        engine.load("self-forcing", "cpu", random_weights=True)


def concern(loaded: engine.Engine, lanes: tuple[str, ...], chunks: int = 0) -> str:
    """What speaks against a run, empty where nothing does."""
    try:
        engine.check(loaded, lanes, chunks)
    except ValueError as error:
        return str(error)
    return ""


def test_a_run_that_will_not_fit_is_said_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(find("self-forcing"), net=replace(NET, channels=16, text_dim=6), heads=None)
    loaded = engine.load(spec, "cpu", random_weights=True)
    assert concern(loaded, ("full:21", "forcing-kv"), chunks=40) == ""
    with pytest.raises(advice.Impossible, match="memory without end; use full:frames=21, which needs "):
        engine.check(loaded, ("full", "forcing-kv"))
    monkeypatch.setattr(parts, "memory", lambda device: 10**9)
    assert "does not fit: " in concern(loaded, ("full:21", "full:21"), chunks=40)


def test_a_size_is_asked_for_in_pixels_and_another_decoder_by_its_name() -> None:
    spec = replace(find("self-forcing"), net=replace(NET, channels=16, text_dim=6), heads=None)
    loaded = engine.load(spec, "cpu", random_weights=True, size=(256, 448))
    assert loaded.spec.geometry.tokens == 16 * 28
    with pytest.raises(ValueError, match="use 256x448"):
        engine.load(spec, "cpu", random_weights=True, size=(250, 450))
    with pytest.raises(ValueError, match=r"codec 'vhs' .* use one of: pocket, taehv, wan-vae"):
        engine.load(spec, "cpu", random_weights=True, codec="vhs")


def test_a_run_with_the_heavier_decoder_is_advised_to_use_the_lighter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(find("self-forcing"), net=replace(NET, channels=16, text_dim=6), heads=None)
    usual = engine.load(spec, "cpu", random_weights=True)
    exact = replace(usual, decoder="wan-vae")
    assert (usual.decoder, engine.load(SMALL, "cpu", random_weights=True).decoder) == ("taehv", "pocket")
    need = planner.plan(engine.wanted(exact, ("full:21", "full:21"), 40)).total
    monkeypatch.setattr(parts, "memory", lambda device: need - 1)
    assert "; use the decoder taehv (--decoder taehv), which needs " in concern(exact, ("full:21", "full:21"), chunks=40)
    assert concern(usual, ("full:21", "full:21"), chunks=40) == ""
    assert "the decoder taehv" in engine.relief(exact, ("full:21", "full:21"))
    assert "the decoder" not in engine.relief(usual, ("full:21", "full:21"))


def test_bundled_profiles_are_the_published_ones() -> None:
    shares = {name: HeadProfile.from_json((engine.ROOT / f"assets/heads/{name}.json").read_text()) for name in ("self-forcing", "longlive")}
    assert {name: sum(map(len, profile.static)) for name, profile in shares.items()} == {"self-forcing": 134, "longlive": 154}
    for spec in MODELS[1:]:
        if spec.heads:
            HeadProfile.from_json((engine.ROOT / spec.heads).read_text(), spec.geometry)


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


def test_loading_a_model_waits_its_turn_among_those_of_its_device() -> None:
    turns, made = engine.Turns(), list[engine.Engine]()
    thread = threading.Thread(target=lambda: made.append(engine.load(SMALL, "cpu", random_weights=True, lock=turns)))
    with turns:
        thread.start()
        while len(turns.waiting) < 2:
            pass
        assert not made
    thread.join(60)
    assert made[0].lock is turns
