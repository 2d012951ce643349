"""The products of a block, each a projection with what follows it at once: torch's own, or on a CPU in float32 oneDNN's.

torch takes float32 products of a CPU from MKL, which on some processors runs at half the speed of oneDNN, though torch brings both. oneDNN
is reached by an operator that torch's own compiler uses; it is tried once, and where it is missing or disagrees, nothing changes but speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fkv.wan import Block

Timer = Callable[[Callable[[], object]], float]
AGREEMENT = 1e-5
EPILOGUE_AGREEMENT = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}  # of the largest value; GELU itself rounds once less
COPIED_BYTES = 64_000_000
CHECKED_ROWS = 512


@dataclass(frozen=True)
class Product:
    """x [..., in] to [..., out]: weight [out, in], bias [out], then GELU where `gelu` names its kind ("none", exact, or "tanh").

    `laid` is the weight as oneDNN wants it, or None where torch's own product is taken; with `epilogue` that product does GELU too.
    """

    weight: Tensor
    bias: Tensor
    gelu: str = ""
    laid: Tensor | None = None
    epilogue: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.laid is not None:
            after = "gelu" if self.gelu else "none"
            return torch.ops.mkldnn._linear_pointwise.default(x, self.laid, self.bias, after, [], self.gelu)
        if self.epilogue:
            return self._with_gelu(x)
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y, approximate=self.gelu) if self.gelu else y

    def _with_gelu(self, x: Tensor) -> Tensor:
        y = torch.ops.aten._addmm_activation.default(self.bias, x.flatten(0, -2), self.weight.t(), use_gelu=True)
        return y.unflatten(0, x.shape[:-1])


@dataclass(frozen=True)
class Layer:
    """What a pass takes from a block: its products (query, key and value in one; what merges heads; cross-attention's query and what merges
    its heads; the two of the feed-forward), and its norms: weights of queries and keys [2, D], of cross-attention's queries [D], weight and
    bias before it [D].
    """

    qkv: Product
    o: Product
    cross_q: Product
    cross_o: Product
    up: Product
    down: Product
    norm: Tensor
    cross_norm: Tensor
    before_cross: tuple[Tensor, Tensor]

    def products(self) -> dict[str, Product]:
        """The products by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Product)}

    def changed(self, change: Callable[[Product], Product], kept: Sequence[str] = ()) -> Layer:
        """This layer with other products, but for those `kept`, by name."""
        return replace(self, **{name: change(product) for name, product in self.products().items() if name not in kept})


def product_of(linear: nn.Linear, gelu: str = "") -> Product:
    """A linear layer on its own weights."""
    return Product(linear.weight.data, linear.bias.data, gelu)


def layer_of(block: Block) -> Layer:
    """A block's products and norms on its own weights, as torch takes them."""
    attn, cross, before = block.self_attn, block.cross_attn, block.norm3
    up, gelu, down = block.ffn
    assert isinstance(up, nn.Linear)
    assert isinstance(gelu, nn.GELU)
    assert isinstance(down, nn.Linear)
    weight, bias = (joined(getattr(linear, name) for linear in (attn.q, attn.k, attn.v)) for name in ("weight", "bias"))
    return Layer(
        qkv=Product(weight, bias),
        o=product_of(attn.o),
        cross_q=product_of(cross.q),
        cross_o=product_of(cross.o),
        up=product_of(up, gelu.approximate),
        down=product_of(down),
        norm=joined((attn.norm_q.weight, attn.norm_k.weight)).unflatten(0, (2, -1)),
        cross_norm=cross.norm_q.weight.data,
        before_cross=(before.weight.data, before.bias.data),
    )


def joined(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The parameters end to end in one storage, of which each becomes a view: nothing is held twice."""
    given = list(parameters)
    whole = torch.cat([parameter.data for parameter in given])
    for parameter, part in zip(given, whole.split([len(parameter) for parameter in given])):
        parameter.data = part
    return whole


@torch.inference_mode()
def with_epilogues(layers: tuple[Layer, ...], rows: int, timer: Timer) -> tuple[Layer, ...]:
    """The same products, with GELU done by the product before it. They stay as they were where torch's operator for that does another kind
    of GELU, as it does on some devices, where it is no faster on chunks of so many tokens, and where it does not run.
    """
    plain = layers[0].up
    fused = replace(plain, epilogue=True)
    drawn = torch.Generator(plain.weight.device).manual_seed(0)
    shape = (1, rows, plain.weight.shape[1])
    x = torch.randn(shape, generator=drawn, device=plain.weight.device, dtype=torch.float32).to(plain.weight.dtype)
    try:
        some = x[:, :CHECKED_ROWS]
        wanted = plain(some).float()
        apart = float((fused(some).float() - wanted).abs().max() / wanted.abs().max())
        if not apart <= EPILOGUE_AGREEMENT.get(x.dtype, AGREEMENT) or timer(lambda: fused(x)) >= timer(lambda: plain(x)):
            return layers
    except (AttributeError, RuntimeError):
        return layers
    return tuple(replace(layer, up=replace(layer.up, epilogue=True)) for layer in layers)


def by_onednn(layers: tuple[Layer, ...], rows: int) -> tuple[Layer, ...]:
    """The same products by oneDNN, laid out for chunks of so many tokens. Large models keep their weights as they lie, to be laid out at
    every product, which then is long enough not to feel it.
    """
    weights = [product.weight for layer in layers for product in layer.products().values()]
    copied = sum(weight.numel() * weight.element_size() for weight in weights) <= COPIED_BYTES

    def laid(product: Product) -> Product:
        return replace(product, laid=laid_out(product.weight, rows) if copied else product.weight)

    return tuple(layer.changed(laid) for layer in layers)


@torch.inference_mode()
def refusal() -> str:
    """Why oneDNN's products cannot be had, in torch's words or as a difference; empty where they can."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((1, 24, 32), (48, 32), (48,)))
    try:
        for gelu in ("", "none", "tanh"):
            plain = Product(weight, bias, gelu)
            wanted = plain(x)
            for laid in (weight, laid_out(weight, x.shape[1])):
                apart = float((replace(plain, laid=laid)(x) - wanted).abs().max() / wanted.abs().max())
                if not apart <= AGREEMENT:
                    return f"differ from torch's own by {apart:.1e}"
    except (AttributeError, RuntimeError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def laid_out(weight: Tensor, rows: int) -> Tensor:
    """A copy of a weight in the order that oneDNN reads for inputs of so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), rows)
