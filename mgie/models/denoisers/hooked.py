"""Attention layers that heed a plan: their processors, wrapped once, without a state.

diffusers hands `cross_attention_kwargs` to every attention and keeps them among the arguments of what is
computed again under gradient checkpointing. So the plan is an argument all the way down: two threads with two
plans do not meet, and no request is remembered.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from mgie.errors import DataError
from mgie.types import AttentionCall, AttentionPlan, Site, Size


class HookedProcessor:
    """A processor of diffusers' `Attention` with the plan's hooks around it; without a plan, itself."""

    def __init__(self, inner: Any, site: Site):
        self.inner, self.site = inner, site

    # The library hands over what this signature names, and passes over the rest.
    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        plan: AttentionPlan | None = None,
        **more: Any,
    ) -> Tensor:
        """What comes out of the layer. Raises DataError for a layer that the plan's grid does not fit."""

        def attend(call: AttentionCall) -> Tensor:
            return self.inner(
                attn, call.states, encoder_hidden_states=call.context, attention_mask=call.bias, temb=temb,
                **more,
            )  # fmt: skip

        hooks = [] if plan is None else [hook for hook in plan.hooks if hook.wants(self.site)]
        if plan is None or not hooks:
            return self.inner(
                attn, hidden_states, encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask, temb=temb, **more,
            )  # fmt: skip
        call = AttentionCall(
            site=self.site, attn=attn, states=hidden_states, context=encoder_hidden_states,
            bias=attention_mask, grid=layer_size(plan.grid, hidden_states.shape[1]), rows=plan.rows,
            read=plan.read,
        )  # fmt: skip
        for hook in sorted(hooks, key=lambda hook: hook.order):
            attend = partial(hook, attend=attend)
        return attend(call)


class HookedModule(HookedProcessor, nn.Module):
    """The same of a processor that has weights: they stay in the tree of the denoiser's modules."""

    def __init__(self, inner: nn.Module, site: Site):
        nn.Module.__init__(self)
        HookedProcessor.__init__(self, inner, site)


def hooked(model: Any) -> Any:
    """Wrap all attention processors of a diffusers model, in place; those that are wrapped stay."""
    processors: Mapping[str, Any] = model.attn_processors
    if not all(isinstance(each, HookedProcessor) for each in processors.values()):
        model.set_attn_processor({name: _wrapped(name, each) for name, each in processors.items()})
    return model


def unhooked(model: Any) -> Any:
    """Take the wrapping of `hooked` off again, in place."""
    processors: Mapping[str, Any] = model.attn_processors
    model.set_attn_processor(
        {name: each.inner if isinstance(each, HookedProcessor) else each for name, each in processors.items()}
    )
    return model


def layer_size(grid: Size, positions: int) -> Size:
    """Height and width of a layer with so many positions over latents of height and width `grid`: each level
    of a UNet halves both, rounding up. Raises DataError if none has so many.

    >>> layer_size((9, 12), 15)
    (3, 5)
    """
    height, width = grid
    while height * width > positions:
        height, width = (height + 1) // 2, (width + 1) // 2
        if height == width == 1:
            break
    if height * width != positions:
        raise DataError(
            f"a layer has {positions} positions, but the plan is for latents of {grid[0]} x {grid[1]}: "
            "expected those halved some times; make the plan for the pictures that are painted."
        )
    return height, width


def _wrapped(name: str, processor: Any) -> HookedProcessor:
    if isinstance(processor, HookedProcessor):
        return processor
    layer = name.removesuffix(".processor")
    # So diffusers names the two of a transformer block.
    site = Site(name=layer, cross=layer.endswith("attn2"))
    return (HookedModule if isinstance(processor, nn.Module) else HookedProcessor)(processor, site)
