"""MGIE's encoder: LLaVA imagines the edit, its visual tokens become the condition."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from llava_patch.model import Llava
from llava_patch.rows import TableWithRows, join_rows, renew_rows, split_rows, split_tables
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.models.encoders.edit_head import EditHead
from mgie.models.encoders.references import References, looks_at, side_by_side
from mgie.tokens import IGNORE, begin, read_positions
from mgie.types import Answer, Asked, Batch, Condition, Context, ControlPlan, Pictures, Term


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualStates:
    """What the language model made of questions."""

    said: tuple[tuple[int, ...], ...]
    """Ids that each sample said, without the visual tokens and what ends an answer."""
    states: Float[Tensor, "b k d"]
    """States that predict the visual tokens."""
    forced: tuple[bool, ...]
    """Which samples never came to the visual tokens by themselves."""


class LlavaEncoder(AbstractInstructionEncoder):
    """Imagine the edit in the language model and hand it to the denoiser as a condition."""

    def __init__(
        self,
        llava: Llava,
        edit_head: EditHead,
        *,
        visual_ids: tuple[int, ...],
        compat: Literal["default", "reference"] = "default",
        references: References | bool = False,
        packed: bool | None = None,
        seed: int = 0,
    ):
        """`reference` computes the null for every row of a batch, as the original program does. True for
        `references`: new ones for the denoiser that it meets, drawn from `seed`. `packed`: whether learning
        reads the rows of a batch without their padding; None: where flash attention keeps them apart."""
        super().__init__()
        if edit_head.d_in != llava.config.language.hidden_size:
            raise WeightsError(
                f"the edit head is for states of width {edit_head.d_in}, but the language model has "
                f"{llava.config.language.hidden_size}: use parts that were trained together."
            )
        self.llava = llava
        self.edit_head = edit_head
        self.visual_ids = tuple(visual_ids)
        self.compat = compat
        self.packed = packed
        self._reads_latents, self._seed = bool(references), seed
        self.references = None if isinstance(references, bool) else references

    @property
    def speaks(self) -> bool:
        """It does."""
        return True

    @property
    def reads_latents(self) -> bool:
        """With references, it does."""
        return self._reads_latents

    def meet(self, denoiser: nn.Module) -> None:
        """New references are made for it. Raises WeightsError for one with attentions of other widths."""
        if not self.reads_latents:
            return
        painting: Any = denoiser
        sites = {name: widths[0] for name, widths in painting.attentions.items()}
        if self.references is None:
            width = self.llava.config.vision.hidden_size
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                made = References(vision=width, channels=painting.latent_channels, width=width, sites=sites)
            self.references = made.to(self.edit_head.dtype).to(self.device)
        if self.references.beside.sites != sites or not sites:
            raise WeightsError(
                f"the references are for {len(self.references.beside.sites)} attentions, and the "
                f"{type(denoiser).__name__} has {len(sites)}, or of other widths: use parts that were "
                "trained together."
            )

    def encode(self, batch: Batch) -> Context:
        """Read pictures and words; the condition comes from the states at `batch.read_at`."""
        features, held = self._seen(batch.input_ids, batch.clip_pixels, batch.features, batch.pictures)
        clip_pixels = batch.clip_pixels if features is None else None
        first = begin(batch.read_at) if self.learns_rows_alone else None
        states = self.llava(
            batch.input_ids, batch.mask, clip_pixels, features, first=first, packed=self.packs
        )  # b t d
        return replace(
            self.condition(states_at(states, batch.read_at).to(self.edit_head.dtype), states), **held
        )

    @property
    def packs(self) -> bool:
        """Whether the rows of a batch are read without their padding; by itself where that has a gain."""
        kernel = str(self.llava.language_model.config._attn_implementation)
        return kernel.startswith("flash_attention") if self.packed is None else self.packed

    def plan(self, context: Context, told: Bool[Tensor, " b"] | None = None) -> ControlPlan | None:
        """Attention to the tokens of references, where there are some."""
        if self.references is None or context.references is None or context.references_mask is None:
            return None
        return self.references.beside.plan(context.references, context.references_mask, told)

    def _seen(
        self,
        ids: Int[Tensor, "b t"],
        clip_pixels: Tensor,
        features: Tensor | None,
        pictures: Pictures | None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The tower's features where something is done to them, or they were stored; the references."""
        references, patches = self.references, self.llava.config.patches
        if references is None:
            return features, {}
        if pictures is None:
            if not (self.training and torch.is_grad_enabled()):
                return features, {}
            blank = references.of_nothing(patches).expand(len(ids), -1, -1)
            return features, {"references": blank, "references_mask": torch.zeros_like(blank[..., 0]).bool()}
        if pictures.latents is None:
            raise DataError(f"{len(pictures.at)} pictures came without latents: encode the pictures first.")
        seen = self.llava.features(clip_pixels.to(self.llava.dtype)) if features is None else features
        which = looks_at(ids, pictures.at, patch=self.llava.tokens.patch, patches=patches)
        fused = references(seen[which], pictures.latents)
        tokens, mask = side_by_side(fused, pictures.at, rows=len(ids))
        held = {"references": tokens, "references_mask": mask}
        return seen.index_put((which,), fused.to(seen)), held

    def condition(
        self, visual: Float[Tensor, "b k d"], states: Float[Tensor, "b t d"] | None = None
    ) -> Context:
        """Condition of each sample from its visual tokens' states, and the null, in one pass.

        `reference`: in two passes, the second with as many equal rows, of which one comes back.
        """
        embeddings = self.visual_embeddings().to(visual)
        if self.compat == "reference":
            tokens = self.edit_head(visual, embeddings)
            null = self.edit_head(torch.zeros_like(visual), embeddings)[:1]
        else:
            nothing = visual.new_zeros(1, *visual.shape[1:])
            both = self.edit_head(torch.cat([visual, nothing]), embeddings)
            tokens, null = both[:-1], both[-1:]
        return Context(condition=Condition(tokens=tokens), null=Condition(tokens=null), states=states)

    @torch.no_grad()
    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        compat: Literal["default", "reference"] = "default",
    ) -> Answer:
        """What it says, and the condition of its visual tokens. Raises as `visual_states` does."""
        features, held = self._seen(asked.input_ids, asked.clip_pixels, None, asked.pictures)
        found = self.visual_states(
            asked, max_new_tokens=max_new_tokens, no_repeat_ngram_size=no_repeat_ngram_size, compat=compat,
            features=features,
        )  # fmt: skip
        context = replace(self.condition(found.states.to(self.edit_head.dtype)), **held)
        return Answer(context=context, said=found.said, forced=found.forced)

    @torch.no_grad()
    def visual_states(
        self,
        asked: Asked,
        *,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        compat: Literal["default", "reference"] = "default",
        features: Tensor | None = None,
    ) -> VisualStates:
        """Let the model speak, then read its visual tokens. `features`: what it sees, if that is known.

        They are appended as soon as it comes to them or stops without them. `reference` lets it say each one
        and reads where the original program would have read.
        Raises DataError for a prompt that is too long for the model.
        """
        ours = compat == "default"
        generated = self.llava.generate(
            asked.input_ids,
            asked.mask,
            asked.clip_pixels.to(self.llava.dtype),
            max_new_tokens=max_new_tokens,
            features=features,
            no_repeat_ngram_size=no_repeat_ngram_size,
            stop=self.visual_ids[:1] if ours else (),
            then=self.visual_ids if ours else (),
        )
        count, said, visual, forced = len(self.visual_ids), [], [], []
        for row, states in enumerate(self.llava.read(generated)):
            sequence, answer = generated.ids[row].tolist(), generated.new_ids(row)
            if ours:
                start = read_positions(len(sequence) - count, count).start
            else:
                # The original program looks for the first one in the whole conversation.
                came = self.visual_ids[0] in sequence
                first = sequence.index(self.visual_ids[0]) if came else len(sequence)
                start = min(read_positions(first, count).start, len(states) - count - 1)
            called = self.visual_ids[0] in answer
            said.append(tuple(answer[: answer.index(self.visual_ids[0])] if called else answer))
            visual.append(states[start : start + count])
            forced.append(generated.endings[row] != "stop" if ours else not called)
        return VisualStates(said=tuple(said), states=torch.stack(visual), forced=tuple(forced))

    def visual_embeddings(self) -> Float[Tensor, "k d"]:
        """Rows of the visual tokens in the input table; gradients reach the table through them."""
        if self.edit_head.own_embeddings is not None:
            return self.edit_head.own_embeddings
        embed: nn.Module = self.llava.language_model.model.embed_tokens
        if isinstance(embed, TableWithRows):
            return embed.rows
        table = self.llava.language_model.model.embed_tokens.weight
        return F.embedding(torch.tensor(self.visual_ids, device=table.device), table)

    def lm_loss(self, context: Context, labels: Int[Tensor, "b t"]) -> Term:
        """Cross-entropy of every labelled token given what stands before it."""
        assert context.states is not None
        return lm_loss(self.llava, context.states, labels)

    @property
    def condition_width(self) -> int:
        """That of the edit head."""
        return self.edit_head.e_out

    @property
    def dtype(self) -> torch.dtype:
        """That of the edit head: a frozen tower may be in another."""
        return self.edit_head.dtype

    def image_features(self, clip_pixels: Float[Tensor, "m 3 s s"]) -> Float[Tensor, "m p dv"]:
        """The tower's patch features, not projected."""
        return self.llava.features(clip_pixels)

    @property
    def vision_tower(self) -> nn.Module:
        """CLIP's."""
        return self.llava.vision_tower

    @property
    def vision_facts(self) -> dict[str, Any]:
        """The layer that is read."""
        return {"layer": self.llava.config.vision_layer}

    def checkpoint_activations(self, *, every: int = 1) -> None:
        """Those of the language model."""
        self.llava.language_model.activation_checkpointing_enable(every_n_layers=every)

    @property
    def adaptable(self) -> nn.Module:
        """The language model."""
        return self.llava.language_model

    def rehearse(self, samples: int, *, length: int, words: int) -> tuple[Tensor, Tensor]:
        """One picture for each conversation; the visual tokens come last. With rows alone in two passes."""
        llava, count = self.llava, len(self.visual_ids)
        ids = torch.zeros(samples, length, dtype=torch.long, device=self.device)
        vision: Any = llava.config.vision
        side, width = vision.image_size, vision.hidden_size
        with torch.set_grad_enabled(any(p.requires_grad for p in llava.vision_tower.parameters())):
            seen = llava.features(torch.zeros(samples, 3, side, side, device=self.device))
        read = llava.language_model.model.embed_tokens(ids)
        projected = llava.projector(seen.to(llava.projector.weight.dtype))
        assert projected.shape[-1] == read.shape[-1] and seen.shape[-1] == width
        read = read + F.pad(projected.to(read.dtype), (0, 0, 0, length - projected.shape[1]))

        def passed(states: Tensor, before: int = 0, cache: Any = None) -> Any:
            new, row = states.shape[1], torch.arange(before + states.shape[1], device=self.device)
            mask = (row[None, :] <= row[before:, None])[None, None].expand(samples, 1, new, before + new)
            return llava.language_model.model(
                inputs_embeds=states, attention_mask=mask, position_ids=row[None, before:],
                past_key_values=cache, use_cache=cache is not None,
            ).last_hidden_state  # fmt: skip

        if self.learns_rows_alone:
            start, cache = length - count - 1, DynamicCache(config=llava.language_model.config)
            with torch.no_grad():
                first = passed(read[:, :start], 0, cache)
            states = torch.cat([first, passed(read[:, start:], start, cache)], dim=1)
        else:
            states = passed(read)
        labelled = states[:, -words - 1 : -1].flatten(0, 1)
        loss = F.cross_entropy(llava.logits(labelled).float(), labelled.new_zeros(len(labelled)).long())
        return self.condition(states[:, -count - 1 : -1].to(self.edit_head.dtype)).condition.tokens, loss

    @property
    def stages(self) -> dict[str, nn.Module]:
        """Tower, language model, word scores, head."""
        llava = self.llava
        return {
            "vision tower": llava.vision_tower,
            "language model": llava.language_model.model,
            "word scores": llava.language_model.lm_head,
            "edit head": self.edit_head,
        }

    def split_new_tokens(self) -> None:
        """In both tables. Raises ConfigError for a published head, which has rows of its own."""
        first, count = self.visual_ids[0], len(self.visual_ids)
        if self.edit_head.own_embeddings is not None or self.visual_ids != tuple(range(first, first + count)):
            raise ConfigError(
                "train.groups has new_tokens: the visual tokens of this model have no rows side by side in "
                "both tables; train embeddings and lm_head, or take a release that `mgie train` made."
            )
        split_rows(self.llava.language_model, first=first, count=count)

    def renew_new_tokens(self) -> None:
        """From both tables."""
        renew_rows(self.llava.language_model)

    def join_new_tokens(self) -> None:
        """Into both tables."""
        join_rows(self.llava.language_model)

    @property
    def learns_rows_alone(self) -> bool:
        """Whether, of all that the language model reads and is, only the visual tokens' rows are trained.

        Then nothing that stands before them has a gradient, in the order of positions of our own.
        """
        llava = self.llava
        # What recomputes activations keeps no cache.
        again = llava.language_model.is_activation_checkpointing and self.training
        if not torch.is_grad_enabled() or self.compat == "reference" or again:
            return False
        inner = (llava.language_model.model, llava.projector, llava.vision_tower)
        moving = [p for module in inner for p in module.parameters() if p.requires_grad]
        rows = [split.rows for split in split_tables(llava.language_model)[:1]]
        return len(moving) == 1 and moving[0] is next(iter(rows), None)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The two tables apart from the layers, as they are trained apart."""
        language_model = self.llava.language_model
        tables: dict[str, list[nn.Parameter]] = {
            "embeddings": [language_model.model.get_parameter("embed_tokens.weight")],
            "lm_head": [language_model.get_parameter("lm_head.weight")],
        }
        if split := split_tables(language_model):
            tables["new_tokens"] = [each.rows for each in split]
        apart = {id(parameter) for members in tables.values() for parameter in members}
        return {
            **tables,
            "language_model": [p for p in language_model.parameters() if id(p) not in apart],
            "projector": list(self.llava.projector.parameters()),
            "vision_tower": list(self.llava.vision_tower.parameters()),
            "edit_head": list(self.edit_head.parameters()),
            **({} if self.references is None else {"references": list(self.references.parameters())}),
        }


def states_at(states: Float[Tensor, "b t d"], read_at: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The states at the positions of `read_at`, sample by sample."""
    return states.gather(1, repeat(read_at, "b k -> b k d", d=states.shape[-1]))


def lm_loss(llava: Llava, states: Float[Tensor, "b t d"], labels: Int[Tensor, "b t"]) -> Term:
    """Sum of cross-entropies of the labelled tokens given the states before them, and their number.

    Positions without a label never reach the vocabulary.
    """
    wanted = labels[:, 1:]
    labelled = wanted != IGNORE
    logits = llava.logits(states[:, :-1][labelled])  # n v
    total = F.cross_entropy(logits.float(), wanted[labelled], reduction="sum")
    return Term(sum=total, count=labelled.sum())
