"""Prompts of the Wan family: cleaned, padded, stored, and encoded only when nothing has them stored."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fkv.text import DrawnText, Umt5Text
from fkv.text.store import Bundle, Folder, address
from fkv.text.umt5 import EXAMPLES, Umt5Encoder, clean, open_umt5, padded

WIDTH = 8


class Counting:
    """An encoder of as many rows as there are words; knows how often it was opened and asked."""

    def __init__(self) -> None:
        self.opened = self.asked = 0

    def __call__(self) -> Counting.Pass:
        self.opened += 1
        return Counting.Pass(self)

    class Pass:
        def __init__(self, owner: Counting):
            self.owner = owner

        def __call__(self, prompt: str) -> Tensor:
            self.owner.asked += 1
            return torch.full((len(prompt.split()), WIDTH), float(len(prompt)), dtype=torch.bfloat16)


def absent() -> Counting.Pass:
    raise FileNotFoundError("text_encoder/* of someone/model is not here; download it first")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("  a  red\n\tfox ", "a red fox"),
        ("fish &amp;amp; chips &lt;3", "fish & chips <3"),
        ("itâ€™s raining", "it's raining"),
        ("“curly”", '"curly"'),
    ],
)
def test_prompts_are_cleaned_as_published(written: str, read: str) -> None:
    assert clean(written) == read


def test_an_empty_prompt_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="the prompt is empty; describe a scene, for instance: A red fox"):
        clean(" \n ")


def test_rows_behind_the_last_token_are_zero() -> None:
    prompt = Umt5Text(Counting(), width=WIDTH, length=5).encode("three small words")
    assert prompt.embedding.shape == (1, 5, WIDTH)
    assert prompt.embedding.dtype == torch.float32
    assert bool((prompt.embedding[0, :3] == 17).all())
    assert not bool(prompt.embedding[0, 3:].any())


def test_a_prompt_is_encoded_once_and_then_comes_from_the_folder(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    text = Umt5Text(first, width=WIDTH, length=9, folder=Folder(tmp_path))
    one = text.encode("a  fox").embedding
    text.encode("a fox", seed=7)
    assert (first.opened, first.asked) == (1, 1)
    again = Umt5Text(second, width=WIDTH, length=9, folder=Folder(tmp_path)).encode("a fox")
    assert second.opened == 0
    assert torch.equal(again.embedding, one)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_an_encoder_that_is_not_kept_is_opened_again_for_the_next_prompt() -> None:
    for keep, opened in ((True, 1), (False, 2)):
        encoder = Counting()
        text = Umt5Text(encoder, width=WIDTH, length=9, keep=keep)
        for prompt in ("one", "two", "one"):
            text.encode(prompt)
        assert (encoder.opened, encoder.asked) == (opened, 2)
        assert (text.encoder is None) is not keep


def test_a_damaged_or_foreign_stored_embedding_is_made_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    key = address("umt5-xxl", "a fox")
    folder.keep(key, torch.zeros(2, WIDTH + 1))
    encoder = Counting()
    Umt5Text(encoder, width=WIDTH, length=9, folder=folder).encode("a fox")
    path = tmp_path / f"{key}.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    Umt5Text(encoder, width=WIDTH, length=9, folder=folder).encode("a fox")
    assert encoder.asked == 2


def test_example_prompts_of_the_bundle_need_no_encoder(tmp_path: Path) -> None:
    path = tmp_path / "prompts" / "umt5.safetensors"
    Bundle(("a fox", "a tram"), {address("umt5-xxl", "a fox"): torch.ones(2, WIDTH)}).write(path)
    text = Umt5Text(absent, width=WIDTH, length=4, bundle=Bundle.read(path))
    assert text.examples == ("a fox", "a tram")
    assert text.encode(" a   fox").embedding.sum() == 2 * WIDTH
    with pytest.raises(ValueError, match=r"needs the text encoder, and text_encoder/\* .* is not here; .* Ready without it: a fox; a tram"):
        text.encode("a horse")


def test_without_a_bundle_the_examples_are_the_written_ones_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "umt5.safetensors"
    assert Umt5Text(absent, bundle=Bundle.read(path)).examples == EXAMPLES
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="is not a complete file of prompt embeddings"):
        Bundle.read(path)


def test_a_prompt_that_fills_every_row_is_said_to_be_cut() -> None:
    text = Umt5Text(Counting(), width=WIDTH, length=3)
    assert text.encode("one two").notes == ()
    assert text.encode("one two three").notes == ("The prompt is longer than 3 tokens; what comes after them is not read.",)


def test_random_models_get_embeddings_drawn_from_the_letters() -> None:
    text = DrawnText(WIDTH, 6)
    one, other, again = (text.encode(prompt).embedding for prompt in ("a fox", "a tram", "a fox"))
    assert one.shape == (1, 6, WIDTH)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny encoder with random weights, in the published folders' layout."""
    transformers: Any = import_module("transformers")
    tokenizers: Any = import_module("tokenizers")
    config = transformers.UMT5Config(vocab_size=40, d_model=WIDTH, d_kv=4, d_ff=16, num_layers=2, num_heads=2, is_gated_act=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.UMT5EncoderModel(config).save_pretrained(tmp_path / "text_encoder")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "fox": 4}, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(
        tmp_path / "tokenizer"
    )
    return tmp_path


def test_umt5_is_asked_with_512_tokens_and_its_padding_is_cut_off(saved: Path) -> None:
    encoder = open_umt5(saved, torch.device("cpu"), torch.float32)
    rows = encoder("a fox")
    assert rows.shape == (3, WIDTH)
    ids = torch.zeros(1, 512, dtype=torch.long)
    ids[0, :3] = torch.tensor([3, 4, 1])
    mask = (torch.arange(512) < 3).long()[None]
    wanted = encoder.model(ids, mask).last_hidden_state[0, :3]
    assert torch.equal(rows, wanted)
    assert isinstance(encoder, Umt5Encoder)
    assert torch.equal(padded(rows, 512)[0, :3], wanted)
    with pytest.raises(OSError, match="holds no complete umT5 encoder"):
        open_umt5(saved / "nowhere", torch.device("cpu"))


WO = "encoder.block.1.layer.1.DenseReluDense.wo.weight"


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda state: state.pop(WO), rf"\(tensor '{WO}' is missing\)"),
        (lambda state: state.update({WO: torch.zeros(9)}), r"\(some tensors have other shapes\)"),
    ],
)
def test_an_encoder_with_a_tensor_missing_or_of_another_shape_is_refused(saved: Path, edit: Any, complaint: str) -> None:
    path = saved / "text_encoder" / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(OSError, match=rf"holds no complete umT5 encoder {complaint}; delete it and fetch it again$"):
        open_umt5(saved, torch.device("cpu"))


def test_a_prompt_is_read_in_main_memory_where_the_device_has_no_room_for_the_encoder(saved: Path) -> None:
    encoder = open_umt5(saved, torch.device("cpu"), torch.float32, length=6)
    wanted = encoder("a fox")
    encoder.device = torch.device("meta")
    with pytest.raises(NotImplementedError):
        encoder("a fox")  # it went to the device, whose numbers cannot be read
    encoder = open_umt5(saved, torch.device("cpu"), torch.float32, length=6)
    encoder.device, encoder.free = torch.device("meta"), lambda device: encoder.nbytes
    assert encoder("a fox").equal(wanted)


def test_a_truncated_encoder_is_refused_in_a_sentence(saved: Path) -> None:
    path = saved / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OSError, match=r"holds no complete umT5 encoder \(.+\); delete it and fetch it again$"):
        open_umt5(saved, torch.device("cpu"))
