"""MGIEPipeline: the model looks, says what the edit will look like, and paints it.

pipeline = MGIEPipeline.from_pretrained("_ckpt/tiny")
result = pipeline(image=picture, prompt="make it black and white", seed=0)
result.images[0], result.said[0]
"""

import copy
import difflib
import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from llava_patch.ranges import in_range
from mgie.controllers.auto_mask import contrast
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.region import Preserve, RegionOptions
from mgie.controllers.session import LayoutSession
from mgie.data.examples import ExampleBuilder
from mgie.data.images import square, to_pixels
from mgie.diffusion.guidance import rows_of
from mgie.diffusion.process import AbstractProcess
from mgie.diffusion.sampling import Generators, reference_of, sample, start_noise
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.layouts import Controls, Heard, Layout, check_session, layout_of
from mgie.masks import Mask, Where, check_heeds, where_of
from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.editor import Controllers, Editor
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.personalization.start import Start, start_of
from mgie.personalization.start_options import SubjectStart
from mgie.personalization.wearing import check_bare, take_off, wear
from mgie.prompts import AbstractPrompts, Compat
from mgie.ranges import NewTokens, Scale, Seed, Side, Steps
from mgie.request import (
    Imagined,
    Sampling,
    Shown,
    asked_of,
    check_shown,
    check_source,
    cleaned,
    fitted_pictures,
    generators_of,
    literal,
    pictures_of,
    questions_of,
    read_picture,
    seeds_of,
    shown,
)
from mgie.types import Asked, Context, ControlPlan, Region
from mgie.weights.adapter import Adapter
from mgie.weights.limits import Limits
from mgie.weights.opening import open_folder
from mgie.weights.release import HUB, Release, fetch, identity_of, write_release

Callback = Callable[..., dict[str, Any] | None]
Inside = Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None
"""Pictures inside instructions: those of all of them, or of each."""


@dataclass
class EditOutput(BaseOutput):
    """What came out, one entry per picture."""

    images: Any
    """The pictures: PIL, at the size of their originals, unless `output_type` says otherwise."""
    said: list[str]
    """What the model said the edit would look like."""
    forced: list[bool]
    """True where the model never came to the visual tokens by itself: trust the edit less."""
    mask: list[Image.Image] | None = None
    """Where the edit was allowed, white, at the size of the photos; None without a mask."""
    outside_change: list[float] | None = None
    """Greatest change of a value outside mask and feather, from 0 (none) to 1; None without a mask, and of
    latents."""


class MGIEPipeline(DiffusionPipeline):
    """An editor as a diffusers pipeline: devices, schedulers, offloading and callbacks as in any other."""

    model_cpu_offload_seq = "encoder->denoiser->codec"
    # The library's own spelling of both.
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    _optional_components = ["controllers"]  # noqa: RUF012
    _exclude_from_cpu_offload = ["controllers"]  # noqa: RUF012 - its blocks are called from the denoiser

    def __init__(
        self,
        encoder: AbstractInstructionEncoder,
        denoiser: AbstractDenoiser,
        codec: Codec,
        process: AbstractProcess,
        scheduler: SchedulerMixin,
        prompts: AbstractPrompts,
        size: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        max_new_tokens: int = 96,
        no_repeat_ngram_size: int = 3,
        compat: Compat = "default",
        controllers: Controllers | None = None,
    ):
        """The parts, and how the editor edits unless a call says otherwise (by default as published)."""
        super().__init__()
        self.register_modules(
            encoder=encoder, denoiser=denoiser, codec=codec, process=process, scheduler=scheduler,
            prompts=prompts, controllers=controllers or None,
        )  # fmt: skip
        self.register_to_config(
            size=size, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale, max_new_tokens=max_new_tokens,
            no_repeat_ngram_size=no_repeat_ngram_size, compat=compat,
        )  # fmt: skip
        self._run_yaml = self._card = ""
        self.adapters: tuple[Adapter, ...] = ()

    # Weights.

    @classmethod
    def from_pretrained(
        cls,
        where: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        attn_implementation: str = "sdpa",
        llava: str | Path | None = None,
        diffusion: str | Path | None = None,
        controller: str | Path | None = None,
        subjects: str | Path | Sequence[str | Path] = (),
        progress: bool = False,
        verify: bool = True,
        **hub: Any,
    ) -> "MGIEPipeline":
        """Load a release folder or hub id, strictly; float32 unless `torch_dtype` is given.

        With `verify` every file is compared with the release's manifest while it is read; a release without
        one is taken as it is, with a warning.
        Apple's `mgie_7b` folder (mllm.pt, unet.pt) loads too: `llava` is then a LLaVA-v1 folder (default:
        llava/ in it, or LLaVA-7B-v1 beside it) and `diffusion` what the VAE and scheduler come from (default:
        timbrooks/instruct-pix2pix). MIGE's folder (model.pth) loads over a `diffusion` with its autoencoder
        and tokenizer (default: PixArt-alpha/PixArt-XL-2-512x512). Folders of Stable Diffusion, XL and
        InstructPix2Pix load as they are; `controller` is a published file of MIGC or MIGC++ for them, or a
        controller's folder of a release, and `subjects` are adapters (load_subjects). `hub` goes to the hub's
        client: revision, cache_dir, token, local_files_only, force_download. Raises WeightsError, and
        ConfigError for what is not an option.
        """
        known = [*list(inspect.signature(cls.from_pretrained).parameters)[1:-1], *HUB]
        if unknown := [name for name in hub if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}."
            raise ConfigError(f"from_pretrained has no option {unknown[0]}: {hint}")
        folder = fetch(where, **hub)
        release = open_folder(
            folder, llava=llava, diffusion=diffusion, controller=controller,
            dtype=torch_dtype or torch.float32, attention=attn_implementation, progress=progress,
            verify=verify,
        )  # fmt: skip
        return cls.from_release(release).load_subjects(subjects)

    @classmethod
    def from_release(cls, release: Release) -> "MGIEPipeline":
        """A pipeline of parts that are loaded already. Raises WeightsError for settings that do not exist."""
        parts = dict(release.editor.named_children())
        parts |= {name: getattr(release, name) for name in ("process", "scheduler", "prompts")}
        known = set(inspect.signature(cls.__init__).parameters) - set(parts)
        if unknown := sorted(set(release.settings) - known):
            raise WeightsError(
                f"the release has the settings {', '.join(unknown)}, which this version of mgie does not "
                "know: update mgie, or extract the release again."
            )
        pipeline = cls(**parts, **release.settings)
        pipeline._run_yaml, pipeline._card = release.run_yaml, release.card
        return pipeline

    def load_subjects(
        self, where: str | Path | Sequence[str | Path], *, scale: float = 1.0
    ) -> "MGIEPipeline":
        """Put adapters beside those that are there, each `scale` times: folders of `mgie personalize`, or
        LoRA files of a UNet by diffusers' names. Raises WeightsError and ConfigError."""
        self.adapters = wear(self.denoiser, where, beside=self.adapters, scale=scale)
        return self

    def unload_subjects(self) -> None:
        """Take all adapters off: the editor is to the bit what it was before."""
        self.adapters = take_off(self.denoiser)

    # Fewer options than the library's: a release has one form.
    def save_pretrained(self, save_directory: str | Path) -> None:  # pyright: ignore
        """Write a release folder; what was loaded from one comes back bit for bit. None of adapters."""
        check_bare(self.adapters)
        write_release(self.as_release(), save_directory)

    def as_release(self) -> Release:
        """The parts and settings as they are now."""
        return Release(
            editor=self.editor, prompts=self.prompts, process=self.process, scheduler=self.scheduler,
            settings=self.parameters, run_yaml=self._run_yaml, card=self._card,
        )  # fmt: skip

    @property
    def editor(self) -> Editor:
        """What edits: encoder, denoiser and codec."""
        return Editor(
            encoder=self.encoder, denoiser=self.denoiser, codec=self.codec, controllers=self.controllers
        )

    @property
    def identity(self) -> str:
        """SHA-256 of weights, settings and sampler, by which an evaluation knows the editor again."""
        return identity_of(self.as_release())

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.denoiser.device

    @property
    def size(self) -> int:
        """Side in pixels of the square pictures that the editor was trained on."""
        return self.config.size

    # Editing.

    @in_range
    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image] | None,
        prompt: str | Sequence[str],
        *,
        images: Inside = None,
        mask: Mask | Sequence[Mask] | None = None,
        preserve: Preserve = "exact",
        region: RegionOptions | None = None,
        regions: Sequence[Region] | Sequence[Sequence[Region]] | None = None,
        layout: LayoutOptions | None = None,
        session: LayoutSession | None = None,
        start: SubjectStart | None = None,
        num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
        image_guidance_scale: Scale | None = None,
        size: Side | None = None,
        max_new_tokens: NewTokens | None = None,
        seed: Seed | Sequence[Seed] | None = None,
        generator: Generators = None,
        output_type: Shown = "pil",
        compat: Compat | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> EditOutput | tuple[Any, list[str], list[bool]]:
        """Edit one picture or several; what a picture becomes does not depend on the others in the call.

        One instruction may serve several pictures, one picture several instructions; None is the release's
        own. Without pictures new ones are painted, squares of `size`. A picture of any size is edited whole,
        at about `size` x `size` pixels in its own shape, and brought back to its size; the language model
        sees it whole too, as a square. Every picture's noise starts from `seed` (or its own, if there are
        several), unless `generator` is given. "np", "pt" (in [0, 1]) and "latent" stay at the size of the
        editing. `compat="reference"` reproduces the original program's crops, window and clean-up, and edits
        at the picture's own size.

        A `mask` says where a picture may change: white in a PIL picture, inside a box (x0, y0, x1, y1) in
        parts of its width and height, or "auto", where the words matter; one for all or one each. With
        `preserve="exact"` every byte outside it and its feather is the picture's own; "soft" holds to the
        picture in the first half of the sampling; with "none" the mask only directs, by what `region`
        switches on.

        `regions` say what belongs where, each with a phrase and a box or mask: a list for all pictures, or
        one each. In an edit each phrase is an instruction of its own. Trained blocks paint them where the
        editor has some, else a fuser without weights, as `layout` says. A `session` remembers the picture:
        the next call with it, of the same seed, keeps what its regions do not change.

        `start` puts cut-outs of subjects (`load_subjects`) into the noise, where words name two or more.

        `images` are what `<image>` stands for in the instruction, one after the other, and `<source>` is the
        picture itself, for models that read instructions with pictures; a list for all instructions, or a
        list of lists. Raises DataError and ConfigError.
        """
        pictures, instructions, inside = asked_of(image, prompt, images, places=self.prompts.reads_pictures)
        sampling = self._sampling(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale, size=size, max_new_tokens=max_new_tokens,
            compat=compat,
        )  # fmt: skip
        generators = generators_of(len(pictures), seed, generator)
        check_shown(output_type, callback_on_step_end_tensor_inputs)
        check_source(
            image is not None, masked=mask is not None, sees=self.denoiser.sees_source, compat=sampling.compat
        )
        hooks = regions is not None or session is not None
        started = start_of(
            start, self.adapters, instructions, seeds_of(len(pictures), seed, generator),
            session=session is not None, compat=sampling.compat,
        )  # fmt: skip
        where = self._where(mask, pictures, sampling, preserve, region, output_type, hooks=hooks)
        check_session(session is not None, len(pictures), masked=mask is not None, compat=sampling.compat)
        fitted = self._fitted(pictures, sampling)
        placed = layout_of(
            regions, [size or picture.size for picture, size in fitted], options=layout,
            blocks=self.controllers and self.controllers.for_layout, compat=sampling.compat, where=where,
        )  # fmt: skip
        imagined = self._imagine(pictures, instructions, inside, sampling)
        phrases = self._heard(placed, pictures, sampling)
        painted = self._paint(
            fitted, imagined.context, sampling, generators, output_type, callback_on_step_end,
            callback_on_step_end_tensor_inputs, where=where, layout=phrases, session=session,
            start=started, new=image is None,
        )  # fmt: skip
        self.maybe_free_model_hooks()
        output = EditOutput(**painted, said=imagined.said, forced=imagined.forced)
        return output if return_dict else output.to_tuple()

    @in_range
    @torch.no_grad()
    def imagine(
        self,
        image: Image.Image | Sequence[Image.Image],
        prompt: str | Sequence[str],
        *,
        images: Inside = None,
        max_new_tokens: NewTokens | None = None,
        compat: Compat | None = None,
    ) -> Imagined:
        """The first half of an edit: what the model understands, to be painted with any seeds and scales."""
        pictures, instructions, inside = asked_of(image, prompt, images, places=self.prompts.reads_pictures)
        sampling = self._sampling(max_new_tokens=max_new_tokens, compat=compat)
        imagined = self._imagine(pictures, instructions, inside, sampling)
        self.maybe_free_model_hooks()
        return imagined

    @in_range
    @torch.no_grad()
    def paint(
        self,
        image: Image.Image | Sequence[Image.Image],
        imagined: Imagined,
        *,
        mask: Mask | Sequence[Mask] | None = None,
        preserve: Preserve = "exact",
        region: RegionOptions | None = None,
        num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
        image_guidance_scale: Scale | None = None,
        size: Side | None = None,
        seed: Seed | Sequence[Seed] | None = None,
        generator: Generators = None,
        output_type: Shown = "pil",
        compat: Compat | None = None,
        plan: ControlPlan | None = None,
    ) -> Any:
        """The second half: the pictures as `imagined` says, which was made of them; with a `mask`, inside it,
        as in an edit. `plan` controls the painting of pictures of one size. Raises DataError and
        ConfigError."""
        pictures = pictures_of(image, len(imagined.said))
        if len(pictures) != len(imagined.said):
            raise DataError(
                f"there are {len(pictures)} pictures and {len(imagined.said)} were imagined: expected the "
                "same pictures."
            )
        sampling = self._sampling(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale, size=size, compat=compat,
        )  # fmt: skip
        generators = generators_of(len(pictures), seed, generator)
        check_shown(output_type, ())
        where = self._where(mask, pictures, sampling, preserve, region, output_type)
        painted = self._paint(
            self._fitted(pictures, sampling), imagined.context, sampling, generators, output_type, plan=plan,
            where=where,
        )  # fmt: skip
        self.maybe_free_model_hooks()
        return painted["images"]

    def _imagine(
        self,
        pictures: Sequence[Image.Image | None],
        instructions: list[str],
        inside: list[list[Image.Image]],
        sampling: Sampling,
    ) -> Imagined:
        """What the model says of each picture, or of none, and the condition that follows."""
        prompts = self.prompts
        builder = ExampleBuilder(prompts, size=sampling.size, max_length=1, compat=sampling.compat)
        photos = [None if picture is None else read_picture(picture, sampling) for picture in pictures]
        others = [[read_picture(each, sampling) for each in held] for held in inside]
        questions, looked, placed = questions_of(prompts, builder, instructions, photos, others)
        asked = self._with_latents(prompts.asked(questions, looked).to(self._execution_device), placed)
        self._onload("encoder")
        answer = self.encoder.answer(
            asked,
            max_new_tokens=sampling.max_new_tokens,
            no_repeat_ngram_size=sampling.no_repeat_ngram_size,
            compat=sampling.compat,
        )
        if sampling.compat == "reference":
            whole = [[*asked.input_ids, *new] for asked, new in zip(questions, answer.said)]
            said = [literal(prompts.text(ids, literal=True)) for ids in whole]
        else:
            said = [cleaned(prompts.text(ids)) for ids in answer.said]
        return Imagined(context=answer.context, said=said, forced=list(answer.forced), pooled=answer.pooled)

    def _heard(
        self, layout: Layout | None, pictures: Sequence[Image.Image | None], sampling: Sampling
    ) -> tuple[Layout, Heard] | None:
        """What the model makes of each phrase of a layout, as an instruction of its own."""
        if layout is None or not layout.phrases:
            return None
        none = [[] for _ in layout.phrases]
        read = layout.heard() or self._imagine(layout.of_each(pictures), layout.phrases, none, sampling)
        return layout, Heard(context=read.context, pooled=read.pooled)

    def _with_latents(self, asked: Asked, pictures: list[Image.Image]) -> Asked:
        """The same with the most likely latents of the pictures that have a place in it, not scaled."""
        if asked.pictures is None or not self.encoder.reads_latents:
            return asked
        self._onload("codec")
        pixels = torch.stack([to_pixels(square(each, self.size)) for each in pictures])
        latents = self.codec.moments(pixels.to(self._execution_device, self.codec.dtype))[0]
        return replace(asked, pictures=replace(asked.pictures, latents=latents.to(self.encoder.dtype)))

    def _paint(
        self,
        fitted: list[tuple[Image.Image, tuple[int, int] | None]],
        context: Context,
        sampling: Sampling,
        generators: Generators,
        output_type: Shown,
        callback: Callback | None = None,
        callback_inputs: Sequence[str] = ("latents",),
        *,
        plan: ControlPlan | None = None,
        where: Where | None = None,
        layout: tuple[Layout, Heard] | None = None,
        session: LayoutSession | None = None,
        start: Start | None = None,
        new: bool = False,
    ) -> dict[str, Any]:
        """The pictures as `output_type` says, those of one size painted together; and what is known of their
        masks. `new`: of those that come only the size counts."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        if where is not None:
            where = where.found({row: self._contrast(fitted[row][0], context, row) for row in where.auto})
        kept = [] if where is None or output_type == "latent" else where.empty
        for row, (picture, _) in enumerate(fitted):
            if not (kept and kept[row]):
                groups[picture.size].append(row)
        if plan is not None and len(groups) > 1:
            raise DataError("a plan is for pictures of one size: paint the others in calls of their own.")
        painted: dict[int, Tensor] = {}
        for rows in groups.values():
            latents, finish = self._sampled(
                torch.stack([to_pixels(fitted[row][0]) for row in rows]),
                rows_of(context, rows, self.denoiser.dtype),
                sampling,
                [generators[row] for row in rows] if isinstance(generators, list) else generators,
                callback,
                callback_inputs,
                Controls(rows=rows, plan=plan, where=where, layout=layout, session=session, start=start),
                new=new,
            )
            if output_type != "latent":
                self._onload("codec")
                latents = self.codec.decode(latents.to(self.codec.dtype))
                for finished in finish:
                    latents = finished(latents)
            painted |= dict(zip(rows, latents))
        ordered = [
            painted[row] if row in painted else to_pixels(picture) for row, (picture, _) in enumerate(fitted)
        ]
        sizes = [original for _, original in fitted]
        if where is None:
            return {"images": shown(ordered, output_type, sizes)}
        sources = [to_pixels(picture) for picture, _ in fitted]
        return where.results(ordered, sources, output_type, lambda edited: shown(edited, output_type, sizes))

    def _sampled(
        self,
        pixels: Float[Tensor, "b 3 y x"],
        context: Context,
        sampling: Sampling,
        generators: Generators,
        callback: Callback | None,
        callback_inputs: Sequence[str],
        controls: Controls,
        *,
        new: bool = False,
    ) -> tuple[Float[Tensor, "b c h w"], tuple[Callable[[Tensor], Tensor], ...]]:
        """Latents of the edited or new pictures, and what is to be done to their pixels. The scheduler is
        this call's own: calls may run side by side."""
        device, (height, width) = self._execution_device, pixels.shape[-2:]
        context = self.encoder.at_size(context, (height, width))
        shape = (len(pixels), *self.codec.latent_shape(height, width))
        mean = source = None
        if not new:
            self._onload("codec")
            mean = self.codec.moments(pixels.to(device, self.codec.dtype))[0]
            source = self.codec.source_latents(mean).to(self.denoiser.dtype)
        scheduler = self.process.steps(
            copy.deepcopy(self.scheduler), sampling.num_inference_steps, tokens=shape[-2] * shape[-1],
            device=device,
        )  # fmt: skip
        begin = noise = start_noise(shape, context, generators)
        if controls.start is not None:
            self._onload("codec")
            begin = controls.start.shifted(self.codec, noise, controls.rows, (width, height))
        reference = None
        if controls.where is not None and mean is not None:
            # Scaled, unlike the source beside the noise.
            latents = self.codec.target_latents(mean, torch.zeros_like(mean), torch.zeros_like(mean))
            reference = reference_of(scheduler, latents.to(noise), noise)
        plan = controls.joined(
            pixels.to(device), context, reference, noise=noise, scheduler=scheduler,
            multiple=self.denoiser.multiple, new=new, own=self.encoder.plan(context),
        )  # fmt: skip
        self._onload("denoiser")
        with self.progress_bar(total=len(scheduler.timesteps)) as bar:

            def watch(step: int, t: Tensor, latents: Tensor) -> Tensor:
                bar.update()
                if callback is None:
                    return latents
                shown = dict.fromkeys(callback_inputs, latents)
                return (callback(self, step, t, shown) or {}).get("latents", latents)

            painted = sample(
                self.denoiser, scheduler, shape, source, context,
                guidance=sampling.guidance_scale, image_guidance=sampling.image_guidance_scale,
                plan=plan, generators=generators, noise=begin, reference=reference, watch=watch,
            )  # fmt: skip
        return painted, () if plan is None else plan.finish

    def _contrast(self, picture: Image.Image, context: Context, row: int) -> Float[Tensor, "1 h w"]:
        """How much the words of a sample matter at each place of its picture."""
        self._onload("codec")
        mean = self.codec.moments(to_pixels(picture)[None].to(self._execution_device, self.codec.dtype))[0]
        none = torch.zeros_like(mean)
        dtype = self.denoiser.dtype
        self._onload("denoiser")
        return contrast(
            self.denoiser, self.process, self.codec.target_latents(mean, none, none).to(dtype),
            self.codec.source_latents(mean).to(dtype), rows_of(context, [row], dtype),
        )[0]  # fmt: skip

    # What a picture is before it is edited.

    def _where(
        self,
        mask: Mask | Sequence[Mask] | None,
        pictures: Sequence[Any],
        sampling: Sampling,
        preserve: Preserve,
        region: RegionOptions | None,
        output_type: Shown,
        *,
        hooks: bool = False,
    ) -> Where | None:
        """Where the pictures may change; `hooks`: other controls need hooks, too. Raises DataError and
        ConfigError."""
        check_heeds(region, hooks, self.denoiser.heeds)
        read = [] if mask is None else [read_picture(picture, sampling) for picture in pictures]
        return where_of(
            mask, read, preserve=preserve, options=region, output_type=output_type, compat=sampling.compat
        )

    def _fitted(
        self, pictures: Sequence[Image.Image | None], sampling: Sampling
    ) -> list[tuple[Image.Image, tuple[int, int] | None]]:
        """As `fitted_pictures`. Raises DataError, and ConfigError for more than memory holds."""
        return fitted_pictures(
            pictures, sampling, self._limits, factor=self.codec.space.factor, dtype=self.denoiser.dtype,
            device=self._execution_device,
        )  # fmt: skip

    @property
    def _limits(self) -> Limits:
        return Limits.of(self.denoiser, self.codec, self.scheduler.config)

    def _sampling(self, **asked: Any) -> Sampling:
        return Sampling.of(self.config, self._limits, **asked)

    def _onload(self, name: str) -> None:
        """Bring an offloaded part to the device, which the library does only when its `forward` is called."""
        hook = getattr(getattr(self, name), "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(getattr(self, name))
