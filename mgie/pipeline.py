"""MGIEPipeline: the model looks, says what the edit will look like, and paints it.

pipeline = MGIEPipeline.from_pretrained("_ckpt/tiny")
result = pipeline(image=picture, prompt="make it black and white", seed=0)
result.images[0], result.said[0]
"""

import difflib
import inspect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from llava_patch.ranges import in_range
from mgie.controllers.identity import seen_of
from mgie.controllers.identity_options import IdentityOptions
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.region import Preserve, RegionOptions
from mgie.controllers.session import LayoutSession
from mgie.data.examples import ExampleBuilder
from mgie.data.images import square, to_pixels
from mgie.diffusion.process import AbstractProcess
from mgie.diffusion.sampling import Generators
from mgie.errors import ConfigError, WeightsError
from mgie.identities import Known, cut, known_by
from mgie.layouts import Heard, Layout, check_session, layout_of
from mgie.masks import Mask, Where, check_heeds, where_of
from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.editor import Controllers, Editor
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.painting import Painter
from mgie.personalization.start import start_of
from mgie.personalization.start_options import SubjectStart
from mgie.personalization.wearing import check_bare, take_off, wear
from mgie.prompts import AbstractPrompts, Compat
from mgie.ranges import Images, NewTokens, Scale, Seed, Side, Steps
from mgie.request import (
    Fitted,
    Imagined,
    Sampling,
    Shown,
    asked_of,
    check_imagined,
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
)
from mgie.types import Asked, ControlPlan, Region
from mgie.weights.adapter import Adapter
from mgie.weights.hub import push_folder
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
        self._interrupt = False
        self._tried: tuple[Any, Any] | None = None

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

    def push_to_hub(  # pyright: ignore - as above
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool = False,
        token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Put the release on a hub, with its card, in one commit; where it is then. Raises ConfigError and
        DeviceError."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "release"
            self.save_pretrained(place)
            facts = push_folder(
                place, repo_id, private=private, message=commit_message, token=token, create_pr=create_pr
            )
        return facts["url"]

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

    # As StableDiffusionMixin has them.

    def enable_vae_slicing(self) -> None:
        """Decode the pictures of a call one by one, for memory."""
        self.codec.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode them together."""
        self.codec.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode large pictures in tiles, for memory; seams are blended."""
        self.codec.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode them whole."""
        self.codec.vae.disable_tiling()

    def enable_sequential_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refused with ConfigError: between the calls of its layers no part would have weights to ask."""
        raise ConfigError(
            "enable_sequential_cpu_offload() leaves no weights between the calls of layers, and parts of "
            "this editor ask theirs where to compute: expected enable_model_cpu_offload(), which brings one "
            "part at a time."
        )

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
        identity: IdentityOptions | None = None,
        imagined: Imagined | None = None,
        num_images_per_prompt: Images = 1,
        num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
        image_guidance_scale: Scale | None = None,
        size: Side | None = None,
        max_new_tokens: NewTokens | None = None,
        seed: Seed | Sequence[Seed] | None = None,
        generator: Generators = None,
        output_type: Shown = "pil",
        detail: bool = False,
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

        `num_images_per_prompt` paints each picture so often, one after the other in the result, from `seed`,
        `seed` + 1 and so on; a list may have a seed for every result. `imagined`, as `imagine` returned it of
        the same pictures and instructions, is not computed again. With `detail` the change is brought to the
        photo's own detail, where the photo is larger than it is edited at. `callback_on_step_end` is called
        with this pipeline, step, time and {"latents": ...}, which it may return changed, as in any diffusers
        pipeline; when it sets `_interrupt`, the sampling ends there.

        `start` puts cut-outs of subjects (`load_subjects`) into the noise, where words name two or more.

        With `identity` the look of the photo, or of a part of it, is heard beside the words, by what a run
        with the group `identity` learnt.

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
        each = num_images_per_prompt
        generators = generators_of(len(pictures), seed, generator, each=each)
        check_shown(
            output_type,
            callback_on_step_end_tensor_inputs,
            detail=detail,
            new=image is None,
            compat=sampling.compat,
        )
        check_source(
            image is not None, masked=mask is not None, sees=self.denoiser.sees_source, compat=sampling.compat
        )
        hooks = regions is not None or session is not None
        started = start_of(
            start, self.adapters, [words for words in instructions for _ in range(each)],
            seeds_of(len(pictures), seed, generator, each=each),
            session=session is not None, compat=sampling.compat,
        )  # fmt: skip
        where = self._where(mask, pictures, sampling, preserve, region, output_type, hooks=hooks)
        check_session(
            session is not None, len(pictures) * each, masked=mask is not None, compat=sampling.compat
        )
        fitted = self._fitted(pictures, sampling, each=each)
        placed = layout_of(
            regions, [size or picture.size for picture, size in fitted], options=layout,
            blocks=self.controllers and self.controllers.for_layout, compat=sampling.compat, where=where,
        )  # fmt: skip
        if imagined is None:
            imagined = self._imagine(pictures, instructions, inside, sampling)
        check_imagined(imagined.said, len(pictures))
        seen = self._seen(pictures, identity, sampling)
        phrases = self._heard(placed, pictures, sampling)
        painted = self._painter(callback_on_step_end, callback_on_step_end_tensor_inputs).paint(
            fitted, imagined.context, sampling, generators, output_type, each=each, where=where,
            layout=phrases, session=session, start=started, new=image is None,
            identity=seen,
            originals=[read_picture(one, sampling) for one in pictures if one] if detail else None,
        )  # fmt: skip
        self.maybe_free_model_hooks()
        rows = [row for row in range(len(pictures)) for _ in range(each)]
        output = EditOutput(
            **painted,
            said=[imagined.said[row] for row in rows],
            forced=[imagined.forced[row] for row in rows],
        )
        return output if return_dict else output.to_tuple()

    @in_range
    @torch.no_grad()
    def imagine(
        self,
        image: Image.Image | Sequence[Image.Image] | None,
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
        num_images_per_prompt: Images = 1,
        num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
        image_guidance_scale: Scale | None = None,
        size: Side | None = None,
        seed: Seed | Sequence[Seed] | None = None,
        generator: Generators = None,
        output_type: Shown = "pil",
        detail: bool = False,
        compat: Compat | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        plan: ControlPlan | None = None,
    ) -> Any:
        """The second half: the pictures as `imagined` says, which was made of them; with a `mask`, inside it,
        as in an edit. `plan` controls the painting of pictures of one size. Raises DataError and
        ConfigError."""
        pictures = pictures_of(image, len(imagined.said))
        check_imagined(imagined.said, len(pictures))
        sampling = self._sampling(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale, size=size, compat=compat,
        )  # fmt: skip
        each = num_images_per_prompt
        generators = generators_of(len(pictures), seed, generator, each=each)
        check_shown(output_type, callback_on_step_end_tensor_inputs, detail=detail, compat=sampling.compat)
        where = self._where(mask, pictures, sampling, preserve, region, output_type)
        painted = self._painter(callback_on_step_end, callback_on_step_end_tensor_inputs).paint(
            self._fitted(pictures, sampling, each=each), imagined.context, sampling, generators, output_type,
            each=each, plan=plan, where=where,
            originals=[read_picture(one, sampling) for one in pictures] if detail else None,
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

    def _seen(
        self, pictures: Sequence[Image.Image | None], identity: IdentityOptions | None, sampling: Sampling
    ) -> Known | None:
        """What the tower sees of the photos, or of a part of each. Raises ConfigError and DataError."""
        if identity is None:
            return None
        blocks = known_by(self.controllers and self.controllers.for_identity, identity,
                          new=pictures[0] is None, compat=sampling.compat)  # fmt: skip
        builder = ExampleBuilder(self.prompts, size=sampling.size, max_length=1)
        parts = [cut(read_picture(each, sampling), identity.box) for each in pictures if each is not None]
        looks = torch.cat([builder.clip_pixels(part) for part in parts]).to(self._execution_device)
        self._onload("encoder")
        features = self.encoder.image_features(looks.to(self.encoder.vision_dtype))
        return Known(blocks=blocks, seen=seen_of(features), options=identity)

    def _with_latents(self, asked: Asked, pictures: list[Image.Image]) -> Asked:
        """The same with the most likely latents of the pictures that have a place in it, not scaled."""
        if asked.pictures is None or not self.encoder.reads_latents:
            return asked
        self._onload("codec")
        pixels = torch.stack([to_pixels(square(each, self.size)) for each in pictures])
        latents = self.codec.moments(pixels.to(self._execution_device, self.codec.dtype))[0]
        return replace(asked, pictures=replace(asked.pictures, latents=latents.to(self.encoder.dtype)))

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
        self, pictures: Sequence[Image.Image | None], sampling: Sampling, *, each: int = 1
    ) -> list[Fitted]:
        """As `fitted_pictures`. Raises DataError, and ConfigError for more than memory holds."""
        return fitted_pictures(
            pictures, sampling, self._limits, factor=self.codec.space.factor, dtype=self.denoiser.dtype,
            device=self._execution_device, each=each,
        )  # fmt: skip

    def _painter(self, callback: Callback | None, inputs: Sequence[str]) -> Painter:
        """Who paints, telling `callback` of each step. The scheduler is tried once, when it is new."""
        self._interrupt = False

        def watch(step: int, t: Tensor, latents: Tensor) -> Tensor | None:
            if callback is not None:
                given = dict.fromkeys(inputs, latents)
                latents = (callback(self, step, t, given) or {}).get("latents", latents)
            return None if self._interrupt else latents

        if self._tried is None or self._tried[0] is not self.scheduler:
            self._tried = (self.scheduler, self.process.fitting(self.scheduler))
        return Painter(
            editor=self.editor, process=self.process, scheduler=self._tried[1], watch=watch,
            device=self._execution_device, onload=self._onload, bar=self.progress_bar,
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
