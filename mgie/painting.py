"""From what was understood to pictures: those of one size are sampled together."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mgie.controllers.auto_mask import contrast
from mgie.controllers.session import LayoutSession
from mgie.data.detail import with_detail
from mgie.data.images import to_image, to_pixels
from mgie.diffusion.guidance import rows_of
from mgie.diffusion.process import AbstractProcess
from mgie.diffusion.sampling import Generators, Watch, reference_of, sample, start_noise
from mgie.errors import DataError
from mgie.identities import Known
from mgie.layouts import Controls, Heard, Layout
from mgie.masks import Where
from mgie.models.editor import Editor
from mgie.personalization.start import Start
from mgie.request import Fitted, Sampling, Shown, shown
from mgie.types import Context, ControlPlan, Size


@dataclass(frozen=True, kw_only=True)
class Painter:
    """The second half of an edit, with what it needs of a pipeline."""

    editor: Editor
    process: AbstractProcess
    scheduler: SchedulerMixin
    device: torch.device
    onload: Callable[[str], None]
    """Brings the part of this name to the device, where it was put away."""
    bar: Callable[..., Any]
    """A progress bar of so many steps (`total`)."""
    watch: Watch | None = None
    """Sees latents after each step, and may change them."""

    def paint(
        self,
        fitted: Sequence[Fitted],
        context: Context,
        sampling: Sampling,
        generators: Generators,
        output_type: Shown,
        *,
        each: int = 1,
        plan: ControlPlan | None = None,
        where: Where | None = None,
        layout: tuple[Layout, Heard] | None = None,
        session: LayoutSession | None = None,
        start: Start | None = None,
        identity: Known | None = None,
        originals: Sequence[Image.Image] | None = None,
        new: bool = False,
    ) -> dict[str, Any]:
        """`each` pictures of each that is given, as `output_type` says; and what is known of their masks.
        `originals`: the photos, whose detail shall be kept. `new`: of those that come only the size
        counts."""
        groups: dict[Size, list[int]] = defaultdict(list)
        if where is not None:
            where = where.found({row: self._contrast(fitted[row][0], context, row) for row in where.auto})
        kept = [] if where is None or output_type == "latent" else where.empty
        places = [row // each for row in range(len(fitted) * each)]
        for row, place in enumerate(places):
            if not (kept and kept[place]):
                groups[fitted[place][0].size].append(row)
        if plan is not None and len(groups) > 1:
            raise DataError("a plan is for pictures of one size: paint the others in calls of their own.")
        painted: dict[int, Tensor] = {}
        for rows in groups.values():
            chosen = [places[row] for row in rows]
            latents, finish = self._sampled(
                torch.stack([to_pixels(fitted[place][0]) for place in chosen]),
                rows_of(context, chosen, self.editor.denoiser.dtype),
                sampling,
                [generators[row] for row in rows] if isinstance(generators, list) else generators,
                Controls(
                    rows=chosen, plan=plan, where=where, layout=layout, session=session, identity=identity
                ),
                start=start and start.of(rows),
                new=new,
            )
            if output_type != "latent":
                self.onload("codec")
                latents = self.editor.codec.decode(latents.to(self.editor.codec.dtype))
                for finished in finish:
                    latents = finished(latents)
            painted |= dict(zip(rows, latents))
        sources = [fitted[place][0] for place in places]
        ordered = [painted[row] if row in painted else to_pixels(each) for row, each in enumerate(sources)]

        def show(edited: list[Tensor]) -> Any:
            if originals is None:
                return shown(edited, output_type, [fitted[place][1] for place in places])
            return [_detailed(pixels, fitted[at], originals[at]) for at, pixels in zip(places, edited)]

        if where is None:
            return {"images": show(ordered)}
        return where.repeated(each).results(ordered, [to_pixels(each) for each in sources], output_type, show)

    def _sampled(
        self,
        pixels: Float[Tensor, "b 3 y x"],
        context: Context,
        sampling: Sampling,
        generators: Generators,
        controls: Controls,
        *,
        start: Start | None = None,
        new: bool = False,
    ) -> tuple[Float[Tensor, "b c h w"], tuple[Callable[[Tensor], Tensor], ...]]:
        """Latents of the edited or new pictures, and what is to be done to their pixels. The scheduler is
        this call's own: calls may run side by side."""
        device, (height, width) = self.device, pixels.shape[-2:]
        context = self.editor.encoder.at_size(context, (height, width))
        shape = (len(pixels), *self.editor.codec.latent_shape(height, width))
        mean = source = None
        if not new:
            self.onload("codec")
            mean = self.editor.codec.moments(pixels.to(device, self.editor.codec.dtype))[0]
            source = self.editor.codec.source_latents(mean).to(self.editor.denoiser.dtype)
        scheduler = self.process.steps(
            copy.deepcopy(self.scheduler), sampling.num_inference_steps, tokens=shape[-2] * shape[-1],
            device=device,
        )  # fmt: skip
        begin = noise = start_noise(shape, context, generators)
        if start is not None:
            self.onload("codec")
            begin = start.shifted(self.editor.codec, noise, (width, height))
        reference = None
        if controls.where is not None and mean is not None:
            # Scaled, unlike the source beside the noise.
            latents = self.editor.codec.target_latents(mean, torch.zeros_like(mean), torch.zeros_like(mean))
            reference = reference_of(scheduler, latents.to(noise), noise)
        plan = controls.joined(
            pixels.to(device), context, reference, noise=noise, scheduler=scheduler,
            multiple=self.editor.denoiser.multiple, new=new, own=self.editor.encoder.plan(context),
        )  # fmt: skip
        self.onload("denoiser")
        predict = self.process.told_as(self.editor.denoiser, scheduler)
        with self.bar(total=len(scheduler.timesteps)) as bar:

            def watch(step: int, t: Tensor, latents: Tensor) -> Tensor | None:
                bar.update()
                return latents if self.watch is None else self.watch(step, t, latents)

            painted = sample(
                predict, scheduler, shape, source, context,
                guidance=sampling.guidance_scale, image_guidance=sampling.image_guidance_scale,
                plan=plan, generators=generators, noise=begin, reference=reference, watch=watch,
            )  # fmt: skip
        return painted, () if plan is None else plan.finish

    def _contrast(self, picture: Image.Image, context: Context, row: int) -> Float[Tensor, "1 h w"]:
        """How much the words of a sample matter at each place of its picture."""
        self.onload("codec")
        mean = self.editor.codec.moments(to_pixels(picture)[None].to(self.device, self.editor.codec.dtype))[0]
        none = torch.zeros_like(mean)
        dtype = self.editor.denoiser.dtype
        self.onload("denoiser")
        return contrast(
            self.editor.denoiser, self.process, self.editor.codec.target_latents(mean, none, none).to(dtype),
            self.editor.codec.source_latents(mean).to(dtype), rows_of(context, [row], dtype),
        )[0]  # fmt: skip


def _detailed(pixels: Float[Tensor, "3 y x"], fitted: Fitted, original: Image.Image) -> Image.Image:
    """An edited photo at its own size, with its own detail."""
    edited = to_image(pixels)
    return edited if original.size == edited.size else with_detail(original, fitted[0], edited)
