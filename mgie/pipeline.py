"""Edit pictures by instructions: the model clip_pixels, says what the edit will look like, and paints it.

pipeline = MGIEPipeline.from_pretrained("_ckpt/tiny")
result = pipeline(image=picture, prompt="make it black and white", seed=0)
result.images[0], result.said[0]
"""

import difflib
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from llava_patch.ranges import check_ranges, in_range
from mgie.data.examples import ExampleBuilder
from mgie.data.express import clean_up
from mgie.data.images import resize, to_image, to_pixels, upright
from mgie.data.validation import check_instruction
from mgie.diffusion.guidance import branch_count, branches, guided
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.encoders.edit_head import EditHead
from mgie.models.encoders.llava import Imagined, LlavaEncoder
from mgie.ranges import NewTokens, Ngram, Scale, Seed, Side, Steps
from mgie.weights.apple import MLLM, read_apple
from mgie.weights.limits import Limits
from mgie.weights.release import HUB, Release, fetch, read_release, visual_ids, write_release

Compat = Literal["default", "reference"]
SHOWN = ("pil", "np", "pt", "latent")
"""What `output_type` may be."""
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class EditOutput(BaseOutput):
    """What came out, one entry per picture."""

    images: Any
    """The edited pictures: PIL, at the size of their originals, unless `output_type` says otherwise."""
    said: list[str]
    """What the model said the edit would look like."""
    forced: list[bool]
    """True where the model never came to the visual tokens by itself: trust the edit less."""


@dataclass(frozen=True, kw_only=True)
class _Sampling:
    """How one call samples."""

    steps: Steps
    guidance: Scale
    image_guidance: Scale
    size: Side
    max_new_tokens: NewTokens
    no_repeat_ngram_size: Ngram
    compat: Compat


class MGIEPipeline(DiffusionPipeline):
    """An editor as a diffusers pipeline: devices, schedulers, offloading and callbacks as in any other."""

    model_cpu_offload_seq = "llava->edit_head->unet->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 - the library's own spelling

    def __init__(
        self,
        llava: nn.Module,
        edit_head: EditHead,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        processor: Any,
        question: str = "what will this image be like if '{instruction}'",
        size: int = 512,
        num_inference_steps: int = 100,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        max_new_tokens: int = 96,
        no_repeat_ngram_size: int = 3,
        compat: Compat = "default",
    ):
        """The parts, and how the editor edits unless a call says otherwise (by default as published)."""
        super().__init__()
        self.register_modules(
            llava=llava,
            edit_head=edit_head,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            processor=processor,
        )
        self.register_to_config(
            question=question,
            size=size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            max_new_tokens=max_new_tokens,
            no_repeat_ngram_size=no_repeat_ngram_size,
            compat=compat,
        )
        self._run_yaml = self._card = ""

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
        progress: bool = False,
        verify: bool = True,
        **hub: Any,
    ) -> "MGIEPipeline":
        """Load a release folder or hub id, strictly; float32 unless `torch_dtype` is given.

        With `verify` every file is compared with the release's manifest while it is read; a release without
        one is taken as it is, with a warning.
        Apple's `mgie_7b` folder (mllm.pt, unet.pt) loads too: `llava` is then a LLaVA-v1 folder (default:
        llava/ in it, or LLaVA-7B-v1 beside it) and `diffusion` what the VAE and scheduler come from (default:
        timbrooks/instruct-pix2pix). `hub` goes to the hub's client: revision, cache_dir, token,
        local_files_only, force_download. Raises WeightsError, and ConfigError for what is not an option.
        """
        known = [*list(inspect.signature(cls.from_pretrained).parameters)[1:-1], *HUB]
        if unknown := [name for name in hub if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}."
            raise ConfigError(f"from_pretrained has no option {unknown[0]}: {hint}")
        folder = fetch(where, **hub)
        dtype = torch_dtype or torch.float32
        if (folder / MLLM).is_file():
            release = read_apple(
                folder,
                llava=llava,
                diffusion=diffusion,
                dtype=dtype,
                attention=attn_implementation,
                progress=progress,
                verify=verify,
            )
        elif llava or diffusion:
            raise ConfigError(
                f"llava and diffusion are for Apple's files, but {where} is a release and has both: leave "
                "them out."
            )
        else:
            release = read_release(
                folder, dtype=dtype, attention=attn_implementation, progress=progress, verify=verify
            )
        return cls.from_release(release)

    @classmethod
    def from_release(cls, release: Release) -> "MGIEPipeline":
        """A pipeline of parts that are loaded already. Raises WeightsError for settings that do not exist."""
        known = set(inspect.signature(cls.__init__).parameters) - set(release.parts)
        if unknown := sorted(set(release.settings) - known):
            raise WeightsError(
                f"the release has the settings {', '.join(unknown)}, which this version of mgie does not "
                "know: update mgie, or extract the release again."
            )
        pipeline = cls(**release.parts, **release.settings)
        pipeline._run_yaml, pipeline._card = release.run_yaml, release.card
        return pipeline

    # Fewer options than the library's: a release has one form.
    def save_pretrained(self, save_directory: str | Path) -> None:  # pyright: ignore
        """Write a release folder; what was loaded from one comes back bit for bit."""
        write_release(self.as_release(), save_directory)

    def as_release(self) -> Release:
        """The parts and settings as they are now."""
        return Release(**self.components, settings=self.parameters, run_yaml=self._run_yaml, card=self._card)

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.unet.device

    @property
    def size(self) -> int:
        """Side in pixels of the square pictures that the editor was trained on."""
        return self.config.size

    # Editing.

    @in_range
    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image],
        prompt: str | Sequence[str],
        *,
        num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
        image_guidance_scale: Scale | None = None,
        steps: Steps | None = None,
        guidance: Scale | None = None,
        image_guidance: Scale | None = None,
        size: Side | None = None,
        max_new_tokens: NewTokens | None = None,
        seed: Seed | Sequence[Seed] | None = None,
        generator: Generators = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        compat: Compat | None = None,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> EditOutput | tuple[Any, list[str], list[bool]]:
        """Edit one picture or several; what a picture becomes does not depend on the others in the call.

        One instruction may serve several pictures, one picture several instructions. `steps`, `guidance` and
        `image_guidance` are short names of the first three; None is the release's own. A picture of any size
        is edited whole, at about `size` x `size` pixels in its own shape, and brought back to its size; the
        language model sees it whole too, as a square. Every picture's noise starts from `seed` (or its own,
        if there are several), unless `generator` is given. "np", "pt" (in [0, 1]) and "latent" stay at the
        size of the editing. `compat="reference"` reproduces the original program's crops, window and
        clean-up, and edits at the picture's own size. Raises DataError and ConfigError.
        """
        # Everything that can be wrong is wrong now.
        pictures, instructions = self._pairs(image, prompt)
        sampling = self._sampling(
            steps=_one_of(num_inference_steps, steps),
            guidance=_one_of(guidance_scale, guidance),
            image_guidance=_one_of(image_guidance_scale, image_guidance),
            size=size,
            max_new_tokens=max_new_tokens,
            compat=compat,
        )
        generators = self._generators(len(pictures), seed, generator)
        if output_type not in SHOWN:
            raise ConfigError(f"output_type is {output_type!r}: expected {', '.join(SHOWN)}.")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ConfigError(
                f"callbacks get latents, there are no {', '.join(sorted(unknown))}: leave them out."
            )
        pictures = [self._read(picture, sampling) for picture in pictures]
        sizes = [self._size(picture, sampling) for picture in pictures]
        pixels = max(width * height * count for (width, height), count in Counter(sizes).items())
        self._limits.check_memory(pixels, dtype=self.unet.dtype, device=self._execution_device)
        fitted = [self._fit(picture, sampling) for picture in pictures]

        # Look and speak.
        imagined, said = self._imagine(pictures, instructions, sampling)

        # Paint, the pictures of one size together.
        tokens, null = self._encoder.condition(imagined.visual.to(self.edit_head.dtype))
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, picture in enumerate(fitted):
            groups[picture.size].append(row)
        results: dict[int, Tensor] = {}
        for rows in groups.values():
            painted = self._paint(
                torch.stack([to_pixels(fitted[row]) for row in rows]),
                tokens[rows],
                null,
                sampling,
                generators if not isinstance(generators, list) else [generators[row] for row in rows],
                callback_on_step_end,
                callback_on_step_end_tensor_inputs,
                decode=output_type != "latent",
            )
            results |= dict(zip(rows, painted))
        self.maybe_free_model_hooks()

        # Show.
        edited = [results[row] for row in range(len(pictures))]
        originals = [None if sampling.compat == "reference" else picture.size for picture in pictures]
        output = EditOutput(
            images=_shown(edited, output_type, originals), said=said, forced=list(imagined.forced)
        )
        return output if return_dict else output.to_tuple()

    def _imagine(
        self, pictures: list[Image.Image], instructions: list[str], sampling: _Sampling
    ) -> tuple[Imagined, list[str]]:
        """What the model says of each picture, and the states of its visual tokens."""
        builder = self._builder(sampling)
        prompts = [builder.ask(*pair) for pair in zip(pictures, instructions)]
        input_ids, mask = self.processor.pad(prompts, side="left")
        clip_pixels = torch.cat([builder.clip_pixels(self._look(picture, sampling)) for picture in pictures])
        self._onload("llava")
        device = self._execution_device
        imagined = self._encoder.imagine(
            input_ids.to(device),
            mask.to(device),
            clip_pixels.to(device, self.llava.dtype),
            max_new_tokens=sampling.max_new_tokens,
            no_repeat_ngram_size=sampling.no_repeat_ngram_size,
            compat=sampling.compat,
        )
        decode = self.processor.tokenizer.decode
        if sampling.compat == "reference":
            whole = [[*ids, *new] for ids, new in zip(prompts, imagined.said)]
            return imagined, [_literal(decode(ids)) for ids in whole]
        return imagined, [_cleaned(decode(list(ids), skip_special=True)) for ids in imagined.said]

    def _paint(
        self,
        pixels: Float[Tensor, "b 3 y x"],
        tokens: Float[Tensor, "b q e"],
        null: Float[Tensor, "1 q e"],
        sampling: _Sampling,
        generators: Generators,
        callback: Callable[..., dict[str, Any] | None] | None,
        callback_inputs: Sequence[str],
        *,
        decode: bool,
    ) -> Tensor:
        """Sample the edited pictures: pixels, or latents if they are not to be decoded."""
        codec, denoiser = Codec(self.vae), UNetDenoiser(self.unet)
        device, dtype = self._execution_device, self.unet.dtype
        scales = {"guidance": sampling.guidance, "image_guidance": sampling.image_guidance}

        # Start from noise, with the source beside it.
        self._onload("vae")
        source = codec.encode_mode(pixels.to(device, self.vae.dtype)).to(dtype)
        self.scheduler.set_timesteps(sampling.steps, device=device)
        latents = randn_tensor(source.shape, generator=generators, device=device, dtype=dtype)
        latents = latents * self.scheduler.init_noise_sigma
        conditions, sources = branches(tokens.to(dtype), null.to(dtype), source, **scales)
        accepted = inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generators} if "generator" in accepted else {}

        # Remove the noise step by step.
        self._onload("unet")
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for step, t in enumerate(self.scheduler.timesteps):
                noisy = self.scheduler.scale_model_input(latents, t)
                noisy = torch.cat([noisy] * branch_count(**scales))
                answers = denoiser(noisy, t.expand(len(noisy)), sources, conditions)
                latents = self.scheduler.step(
                    guided(answers, **scales), t, latents, **extra, return_dict=False
                )[0]
                if callback is not None:
                    shown = dict.fromkeys(callback_inputs, latents)
                    latents = (callback(self, step, t, shown) or {}).get("latents", latents)
                bar.update()
        if not decode:
            return latents
        self._onload("vae")
        return codec.decode(latents.to(self.vae.dtype))

    # What a picture is before it is edited.

    def _read(self, picture: Image.Image, sampling: _Sampling) -> Image.Image:
        """The picture in colours, upright, on white; the reference drops what is beside the colours."""
        if sampling.compat == "reference":
            return picture.convert("RGB")
        return upright(picture, name="a picture")

    def _size(self, picture: Image.Image, sampling: _Sampling) -> tuple[int, int]:
        """Width and height that the picture is edited at."""
        if sampling.compat == "reference":
            factor = Codec(self.vae).factor
            sides = (picture.width // factor * factor, picture.height // factor * factor)
            if not all(sides):
                raise DataError(
                    f"a picture of {picture.width} x {picture.height} pixels is too small: expected at least "
                    f"{factor} x {factor}."
                )
            return sides
        return fitted_size(picture.size, side=sampling.size, multiple=self._limits.multiple)

    def _fit(self, picture: Image.Image, sampling: _Sampling) -> Image.Image:
        """The picture at the size that it is edited at."""
        size = self._size(picture, sampling)
        kind = Image.Resampling.LANCZOS if sampling.compat == "reference" else Image.Resampling.BICUBIC
        return picture if size == picture.size else picture.resize(size, kind)

    def _look(self, picture: Image.Image, sampling: _Sampling) -> Image.Image:
        """The picture as the language model's tower gets it: whole, unless the reference's crop is wanted."""
        if sampling.compat == "reference":
            return picture
        side = min(picture.size)
        return resize(picture, (side, side))

    @property
    def _limits(self) -> Limits:
        return Limits.of(self.unet.config, self.vae.config, self.scheduler.config)

    def _builder(self, sampling: _Sampling) -> ExampleBuilder:
        return ExampleBuilder(
            self.processor,
            question=self.config.question,
            visual_tokens=self.edit_head.config.visual_tokens,
            size=sampling.size,
            max_length=1,
            compat=sampling.compat,
        )

    @property
    def _encoder(self) -> LlavaEncoder:
        ids = visual_ids(self.processor, self.edit_head.config.visual_tokens)
        return LlavaEncoder(self.llava, self.edit_head, visual_ids=ids)  # pyright: ignore - a Llava

    # What a call may ask for.

    def _pairs(
        self, image: Image.Image | Sequence[Image.Image], prompt: str | Sequence[str]
    ) -> tuple[list[Image.Image], list[str]]:
        if isinstance(image, Image.Image):
            pictures = [image] * (1 if isinstance(prompt, str) else len(prompt))
        else:
            pictures = list(image)
        instructions = [prompt] * len(pictures) if isinstance(prompt, str) else list(prompt)
        if not pictures or len(pictures) != len(instructions):
            raise DataError(
                f"there are {len(pictures)} pictures and {len(instructions)} instructions: expected at "
                "least one picture and one instruction, and one for all or one for each."
            )
        for picture in pictures:
            if not isinstance(picture, Image.Image):
                raise DataError(
                    f"an image is a {type(picture).__name__}: expected PIL pictures; open files with "
                    "PIL.Image.open(PATH)."
                )
        for instruction in instructions:
            check_instruction(instruction)
        return pictures, instructions

    def _sampling(self, **asked: Any) -> _Sampling:
        config = self.config
        own = {
            "steps": config.num_inference_steps,
            "guidance": config.guidance_scale,
            "image_guidance": config.image_guidance_scale,
            "size": config.size,
            "max_new_tokens": config.max_new_tokens,
            "no_repeat_ngram_size": config.no_repeat_ngram_size,
            "compat": config.compat,
        }
        sampling = _Sampling(**{name: own[name] if asked.get(name) is None else asked[name] for name in own})
        if sampling.compat not in ("default", "reference"):
            raise ConfigError(f"compat is {sampling.compat!r}: expected default or reference.")
        check_ranges(sampling)
        self._limits.check(steps=sampling.steps, size=sampling.size)
        return sampling

    def _generators(self, count: int, seed: int | Sequence[int] | None, given: Generators) -> Generators:
        if seed is None:
            if isinstance(given, list) and len(given) != count:
                raise ConfigError(f"there are {len(given)} generators for {count} pictures: give one each.")
            return given
        if given is not None:
            raise ConfigError("both seed and generator are given: expected one of them.")
        seeds = [seed] * count if isinstance(seed, int) else list(seed)
        if len(seeds) != count:
            raise ConfigError(f"there are {len(seeds)} seeds for {count} pictures: give one, or one each.")
        return [torch.Generator().manual_seed(each) for each in seeds]

    def _onload(self, name: str) -> None:
        """Bring an offloaded part to the device, which the library does only when its `forward` is called."""
        hook = getattr(getattr(self, name), "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(getattr(self, name))


def fitted_size(size: tuple[int, int], *, side: int, multiple: int) -> tuple[int, int]:
    """(width, height) with about side x side pixels in the shape of `size`, both multiples of `multiple`.

    >>> fitted_size((4000, 3000), side=512, multiple=64)
    (576, 448)
    """
    width, height = size
    shape = (width / height) ** 0.5
    return (
        max(round(side * shape / multiple), 1) * multiple,
        max(round(side / shape / multiple), 1) * multiple,
    )


def _shown(edited: list[Tensor], kind: str, sizes: list[tuple[int, int] | None]) -> Any:
    """Pixels or latents as the caller wants them; tensors and arrays are stacked if they are of one size."""
    if kind == "pil":
        images = [to_image(pixels) for pixels in edited]
        return [image if size is None else resize(image, size) for image, size in zip(images, sizes)]
    if kind != "latent":
        edited = [(pixels.float() / 2 + 0.5).clamp(0, 1) for pixels in edited]
    alike = len({pixels.shape for pixels in edited}) == 1
    if kind != "np":
        return torch.stack(edited) if alike else edited
    arrays = [pixels.permute(1, 2, 0).cpu().numpy() for pixels in edited]
    return torch.stack([pixels.permute(1, 2, 0).cpu() for pixels in edited]).numpy() if alike else arrays


def _cleaned(words: str) -> str:
    """What was said, by the sound rule; a full stop that was not said is not put into the model's mouth."""
    cleaned, words = clean_up(words), " ".join(words.split())
    return words if cleaned == words + "." else cleaned


def _literal(conversation: str) -> str:
    """What was said, by the reference's rule; it has no answer for an empty text."""
    try:
        return clean_up(conversation, compat="reference")
    except IndexError:
        return ""


def _one_of(long: Any, short: Any) -> Any:
    return short if long is None else long
