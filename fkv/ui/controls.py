"""Controls made from what a policy says of itself: a row per parameter, and the way back from their values to a spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from fkv.cache import Policy
from fkv.policies import label, parse

Control = gr.Slider | gr.Number | gr.Radio | gr.Textbox
SLIDER = 64  # integer ranges up to this get a slider, wider ones a number


@dataclass(frozen=True)
class LanePicker:
    """One lane's dropdown and, for every policy, its folded parameters. `fields` name (policy, parameter) in the order of `inputs`."""

    lane: str
    choice: gr.Dropdown
    fold: gr.Accordion
    groups: dict[str, gr.Column]
    controls: dict[tuple[str, str], Control]

    @property
    def inputs(self) -> list[Control | gr.Dropdown]:
        return [self.choice, *self.controls.values()]

    def policy(self, values: Sequence[Any], known: Mapping[str, type[Policy]]) -> Policy:
        """The policy that the values of `inputs` describe. Raises ValueError naming what is wrong with one of them."""
        name = values[0]
        if name not in known:
            raise ValueError(f"policy {name!r} is unknown; use one of: {', '.join(known)}")
        types = {item.name: type(item.default) for item in known[name].parameters()}
        chosen: dict[str, Any] = {}
        for (owner, parameter), value in zip(self.controls, values[1:]):
            if owner == name:
                chosen[parameter] = cast(name, parameter, value, types[parameter])
        return known[name](**chosen)

    def fresh(self, policy: Policy) -> list[Any]:
        """Updates of the fold and the groups for a policy now chosen, in the order of `outputs`."""
        shown = [gr.Column(visible=name == policy.name) for name in self.groups]
        return [gr.Accordion(label=caption(policy)), *shown]

    def taken(self, policy: Policy) -> list[Any]:
        """Updates for a policy that comes from elsewhere, in the order of `inputs` and then `outputs`."""
        values = [gr.update(value=getattr(policy, name)) if owner == policy.name else gr.skip() for owner, name in self.controls]
        return [gr.update(value=policy.name), *values, *self.fresh(policy)]

    @property
    def outputs(self) -> list[Any]:
        return [self.fold, *self.groups.values()]


def cast(policy: str, parameter: str, value: Any, kind: type) -> Any:
    """A control's value as the parameter's type. Raises ValueError on an emptied field or one that is no number."""
    if kind is str and value is None:
        return ""
    try:
        number = kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{policy}: {parameter} is empty or no number; type one, for instance 1") from None
    if kind is int and float(value) != number:
        raise ValueError(f"{policy}: {parameter}={value} is not a whole number; use {number}")
    return number


def caption(policy: Policy) -> str:
    """What the folded settings say of themselves."""
    return f"Settings · {label(policy)}"


def picker(lane: str, initial: str, known: Mapping[str, type[Policy]]) -> LanePicker:
    """The controls of a lane, laid out where they are made; `initial` is a spelling."""
    start = parse(initial)
    choice = gr.Dropdown(
        [(kind.title, name) for name, kind in known.items()],
        value=start.name,
        label=f"Cache policy of lane {lane}",
        elem_id=f"policy-{lane.lower()}",
        elem_classes=["picker", f"lane-{lane.lower()}"],
        filterable=False,
    )
    groups: dict[str, gr.Column] = {}
    controls: dict[tuple[str, str], Control] = {}
    with gr.Accordion(caption(start), open=False, elem_id=f"fold-{lane.lower()}", elem_classes=["fold"]) as fold:
        for name, kind in known.items():
            with gr.Column(visible=name == start.name, elem_classes=["parameters"]) as groups[name]:
                gr.HTML(f"<p>{kind.summary}</p>", elem_classes=["summary"])
                for item in kind.parameters():
                    value = getattr(start, item.name) if name == start.name else item.default
                    controls[name, item.name] = control(item.metadata, value)
    return LanePicker(lane, choice, fold, groups, controls)


def control(about: Mapping[str, Any], value: Any) -> Control:
    """A choice, a text, a slider or a number, by what the field's metadata and its value say."""
    words = {"label": about.get("label"), "info": about.get("help"), "interactive": True}
    if about.get("choices"):
        return gr.Radio(list(about["choices"]), value=value, **words)
    if isinstance(value, str):
        return gr.Textbox(value, lines=1, max_lines=1, max_length=400, **words)
    low, high, step = about.get("minimum"), about.get("maximum"), about.get("step") or (1 if isinstance(value, int) else None)
    if low is not None and high is not None and (isinstance(value, float) or high - low <= SLIDER):
        return gr.Slider(low, high, value=value, step=step, **words)
    return gr.Number(value=value, minimum=low, maximum=high, step=step or 1, precision=0 if isinstance(value, int) else None, **words)
