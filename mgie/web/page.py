"""The page itself, in gradio: what is on it, and what happens when somebody uses it."""

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from mgie.errors import DataError
from mgie.web.asked import WORDS, painted_mask, read_mask
from mgie.web.history import History, Turn
from mgie.web.service import Service, write_turn
from mgie.web.shown import IDLE, choices, examples, failure, finished, on_screen, pair, panel
from mgie.web.worker import Ticket, Told, sentence

LOOK = 0.1
"""Seconds between two looks at a request."""
PROGRAMS = 32
"""Programs that the library remembers; each of their requests is a session of its own to it."""


def _path_of(payload: Any) -> Any:
    """The file that came, as it is; it is looked at by who knows what is wrong with files."""
    return None if payload is None else payload.path


def _file(path: str | None, service: Service) -> bytes | None:
    """The bytes of a file that came. Raises DataError."""
    if path is None:
        return None
    if not isinstance(path, str) or not Path(path).is_file():
        raise DataError("the file did not arrive: send it again.")
    if Path(path).stat().st_size > service.bounds.most_bytes:
        raise DataError(f"the file is larger than {service.bounds.megabytes:g} megabytes: save it smaller.")
    return Path(path).read_bytes()


async def _told(ticket: Ticket) -> AsyncIterator[Told]:
    """What is told of a request, as it changes. Who leaves cancels it."""
    last = None
    try:
        while last is None or not last.done:
            now = ticket.look()
            if now is not last:
                last = now
                yield now
            else:
                await asyncio.sleep(LOOK)
    finally:
        if not ticket.told.done:
            ticket.cancel()


class Page:
    """The handlers of a page; each takes and gives what its components hold."""

    def __init__(self, service: Service, folder: Path):
        self.service, self.folder, self.can = service, folder, service.can
        self.examples = examples(self.can.size)
        self.forget: Callable[[str], Any] = str
        """Told of a session that the library need not remember."""
        self._programs: OrderedDict[str, None] = OrderedDict()

    # What is on it.

    def lay_out(self, title: str) -> None:
        """Picture, words and buttons; what is said, the result and the history; settings."""
        can = self.can
        base, shown = gr.State(None), gr.State(None)
        gr.Markdown(f"# {title}\nBring a picture, say what to change, and see what the model makes of it.")
        with gr.Row():
            with gr.Column(min_width=320):
                picture = gr.Image(
                    label="Picture (drop, paste or choose one)", sources=["upload", "clipboard"], height=340,
                    type="filepath", image_mode=None, visible=can.photos, elem_id="picture",
                    buttons=["fullscreen"],
                )  # fmt: skip
                words = gr.Textbox(
                    label="Instruction", placeholder="make it black and white", lines=1, max_lines=4,
                    max_length=WORDS, elem_id="instruction",
                )  # fmt: skip
                with gr.Row():
                    go = gr.Button("Edit", variant="primary", elem_id="edit", min_width=120)
                    stop = gr.Button("Cancel", elem_id="cancel", min_width=120)
                tries = [
                    gr.Button(f"Example: {said}", size="sm", elem_classes="mgie-example")
                    for said, _ in self.examples
                    if can.photos
                ]
            with gr.Column(min_width=320):
                live = gr.HTML(IDLE, elem_id="told", padding=False)
                slider = gr.ImageSlider(
                    label="Before | after", interactive=False, elem_id="slider", max_height=520,
                    buttons=["fullscreen"],
                )  # fmt: skip
                small: dict[str, Any] = {"size": "md", "min_width": 120}
                with gr.Row():
                    on = gr.Button("Go on from this", elem_id="goon", interactive=False, **small)
                    back = gr.Button("Undo", elem_id="undo", **small)
                with gr.Row():
                    full = gr.DownloadButton("Download", interactive=False, elem_id="download", **small)
                    bare = gr.DownloadButton("Without metadata", interactive=False, elem_id="bare", **small)
                tree = gr.Radio(
                    [], label="History: choose one to go on from it", elem_id="history", visible=False,
                    elem_classes="mgie-tree",
                )  # fmt: skip
        self.wire(base, shown, picture, words, go, stop, tries, live, slider, on, back, full, bare, tree)

    def wire(
        self, base: Any, shown: Any, picture: Any, words: Any, go: Any, stop: Any, tries: list[Any],
        live: Any, slider: Any, on: Any, back: Any, full: Any, bare: Any, tree: Any,
    ) -> None:  # fmt: skip
        """What follows on what, with the settings below."""
        settings = self.lay_out_settings()
        canvas, draw, wipe, boxes, images = self.lay_out_controls()
        result = [shown, slider, full, bare, on]
        asked = [words, *settings, boxes, images]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gr.on(
            [go.click, words.submit], self.edit, [base, *asked, canvas], [live, tree, *result],
            trigger_mode="once", api_name="page_edit", **private,
        )  # fmt: skip
        stop.click(self.cancel, None, None, queue=False, api_name="page_cancel", **private)
        turned = [base, picture, canvas, live, tree]
        picture.upload(self.bring, picture, turned, **private)
        picture.clear(self.clear, None, turned, **private)
        on.click(self.go_on, shown, turned, **private)
        back.click(self.undo, base, turned, **private)
        # Arrows are quicker than pictures: the last choice counts.
        tree.input(self.choose, tree, [*turned, *result], trigger_mode="always_last", **private)
        draw.click(self.canvas, base, [canvas, live], **private)
        wipe.click(lambda: None, None, canvas, **private)
        for number, button in enumerate(tries):
            button.click(self.example(number), None, [words, *turned], **private)
        self.lay_out_api(asked)
        picture.preprocess = _path_of

    def lay_out_settings(self) -> list[Any]:
        """Seed, count, steps, guidance, image guidance, size, detail; the editor's own to begin with."""
        own = self.service.pipeline.config
        with gr.Accordion("Seed, steps, guidance, size", open=False):
            with gr.Row():
                seed = gr.Number(label="Seed", value=0, precision=0, min_width=140)
                count = gr.Slider(1, 8, value=1, step=1, label="Pictures: seed, seed + 1, ...", min_width=140)
                steps = gr.Number(label="Steps", value=own.num_inference_steps, precision=0, min_width=140)
            with gr.Row():
                guidance = gr.Number(label="Guidance by the words", value=own.guidance_scale, min_width=140)
                image_guidance = gr.Number(
                    label="Guidance by the picture", value=own.image_guidance_scale, min_width=140
                )
                size = gr.Number(label="Size in pixels", value=self.can.size, precision=0, min_width=140)
            detail = gr.Checkbox(label="Keep the detail of a large photo", value=False)
        return [seed, count, steps, guidance, image_guidance, size, detail]

    def lay_out_controls(self) -> tuple[Any, ...]:
        """What this editor can beside words: a mask's canvas with its two buttons, boxes, pictures."""
        can = self.can
        with gr.Accordion("Only here: paint a mask", open=False, visible=can.photos):
            draw = gr.Button("Take the picture to paint on", size="sm", elem_id="draw")
            canvas = gr.ImageEditor(
                label="Mask", type="pil", sources=[], transforms=[], layers=False, elem_id="canvas",
                buttons=[],
                brush=gr.Brush(colors=["#ff3b30"], default_color="#ff3b30", color_mode="fixed"),
                placeholder="Paint where the picture may change; all else stays to the byte.",
            )  # fmt: skip
            wipe = gr.Button("No mask", size="sm")
        with gr.Accordion("Boxes", open=False, visible=can.boxes):
            boxes = gr.Textbox(
                label="What belongs where: x0,y0,x1,y1 in parts of width and height, and words",
                placeholder="0.1,0.5,0.4,0.9 a red ball", lines=3, value="",
            )  # fmt: skip
        with gr.Accordion("Pictures in the instruction", open=False, visible=can.pictures):
            images = gr.File(
                label="What <image> stands for, in the order of the instruction", type="filepath",
                file_count="multiple", file_types=["image"],
            )  # fmt: skip
        return canvas, draw, wipe, boxes, images

    def lay_out_api(self, settings: list[Any]) -> None:
        """What programs use, beside the page: components that nobody sees."""
        picture = gr.Image(type="filepath", image_mode=None, visible=False, label="picture")
        mask = gr.Image(type="filepath", image_mode=None, visible=False, label="mask")
        edited, facts = gr.File(visible=False, label="edited"), gr.JSON(visible=False, label="facts")
        run, stop = gr.Button(visible=False), gr.Button(visible=False)
        run.click(
            self.api_edit, [picture, *settings, mask], [edited, facts], api_name="edit",
            api_description="Edit a picture by an instruction; facts come while it is made, the file last.",
        )  # fmt: skip
        stop.click(
            self.api_cancel, None, facts, api_name="cancel", queue=False,
            api_description="Cancel what this session waits for.",
        )  # fmt: skip
        for block in (picture, mask):
            block.preprocess = _path_of

    # What happens.

    async def edit(
        self, base: Any, instruction: Any, seed: Any, count: Any, steps: Any, guidance: Any,
        image_guidance: Any, size: Any, detail: Any, boxes: Any, images: Any, canvas: Any,
        request: gr.Request,
    ) -> Any:  # fmt: skip
        """An edit of the page's own picture: what is told while it is made, and then the result."""
        nothing = [gr.skip()] * 6
        try:
            given = {
                "base": base, "instruction": instruction, "seed": seed, "count": count, "steps": steps,
                "guidance": guidance, "image_guidance": image_guidance, "size": size, "detail": detail,
                "boxes": boxes, "images": [_file(path, self.service) for path in images or ()],
                "mask": painted_mask((canvas or {}).get("layers")),
            }  # fmt: skip
            ticket = await asyncio.to_thread(self.service.ask, _owner(request), given)
            async for told in _told(ticket):
                if not told.done:
                    yield panel(told), *nothing
            told = ticket.told
            if told.error is not None:
                yield failure(told.error), *nothing
                return
            history = self.service.histories.of(_owner(request))
            turn = told.result[-1]
            shown = await asyncio.to_thread(self._result, history, turn)
            yield finished(turn), self._tree(history, base), *shown
        except Exception as error:
            yield failure(sentence(error)), *nothing

    def cancel(self, request: gr.Request) -> None:
        """End what the page waits for."""
        self.service.cancel(_owner(request))

    def leave(self, request: gr.Request) -> None:
        """A page was closed, or cannot be reached any more."""
        self.service.leave(_owner(request))

    def bring(self, path: Any, request: gr.Request) -> Any:
        """A picture that somebody brings."""
        try:
            file = _file(path, self.service)
            if file is None:
                return self.clear()
            turn = self.service.begin(_owner(request), file, name=path)
            return turn.number, gr.skip(), None, IDLE, self._tree(self._history(request), turn.number)
        except Exception as error:
            return None, None, None, failure(sentence(error)), gr.skip()

    def clear(self) -> Any:
        """No picture."""
        return None, None, None, IDLE, gr.skip()

    def example(self, number: int) -> Any:
        """What a button with an example does."""

        def take(request: gr.Request) -> Any:
            from mgie.web.history import without_loss

            words, picture = self.examples[number]
            turn = self.service.begin(_owner(request), without_loss(picture))
            return words, *self._turned(self._history(request), turn)

        return take

    def go_on(self, shown: Any, request: gr.Request) -> Any:
        """The result becomes what is edited next."""
        return self._to(request, lambda history: history.get(shown))

    def undo(self, base: Any, request: gr.Request) -> Any:
        """What the edited picture was made of is edited again."""

        def before(history: History) -> Turn:
            turn = history.get(base)
            if turn.parent is None:
                raise DataError("this is the first picture: there is nothing before it.")
            return history.get(turn.parent)

        return self._to(request, before)

    def choose(self, number: Any, request: gr.Request) -> Any:
        """Any turn of the history: it is shown, and edited next."""
        history = self._history(request)
        try:
            turn = history.get(number)
            turned = self._turned(history, turn, live=finished(turn))[:-1]
            return *turned, gr.skip(), *self._result(history, turn)  # the list shows a newer choice by now
        except Exception as error:
            return *[gr.skip()] * 3, failure(sentence(error)), *[gr.skip()] * 6

    def canvas(self, base: Any, request: gr.Request) -> Any:
        """The picture to paint a mask on."""
        try:
            return {"background": on_screen(self._history(request).get(base)), "layers": [], "composite": None
                    }, gr.skip()  # fmt: skip
        except Exception as error:
            return gr.skip(), failure(sentence(error))

    def _to(self, request: gr.Request, find: Callable[[History], Turn]) -> Any:
        history = self._history(request)
        try:
            return self._turned(history, find(history))
        except Exception as error:
            return *[gr.skip()] * 3, failure(sentence(error)), gr.skip()

    def _history(self, request: gr.Request) -> History:
        return self.service.histories.of(_owner(request))

    def _turned(self, history: History, turn: Turn, *, live: Any = None) -> tuple[Any, ...]:
        picture = self._on_disk(on_screen(turn), turn)
        return turn.number, picture, None, live or gr.skip(), self._tree(history, turn.number)

    def _on_disk(self, picture: Image.Image, turn: Turn) -> str:
        place = Path(tempfile.mkdtemp(dir=self.folder)) / f"turn-{turn.number}.png"
        picture.save(place, compress_level=1)
        return str(place)

    def _tree(self, history: History, chosen: Any) -> Any:
        return gr.Radio(choices=choices(history), value=chosen, visible=True)

    def _result(self, history: History, turn: Turn) -> tuple[Any, ...]:
        made = bool(turn.instruction)
        files = [gr.DownloadButton(interactive=False)] * 2
        if made:
            files = [
                gr.DownloadButton(value=str(write_turn(turn, self.folder, strip=strip)), interactive=True)
                for strip in (False, True)
            ]
        return turn.number, pair(history, turn), *files, gr.Button(interactive=made)

    # For programs.

    async def api_edit(
        self, request: gr.Request, picture: Any = None, instruction: Any = None, seed: Any = None,
        count: Any = None, steps: Any = None, guidance: Any = None, image_guidance: Any = None,
        size: Any = None, detail: Any = None, boxes: Any = None, images: Any = None, mask: Any = None,
    ) -> Any:  # fmt: skip
        """An edit of a picture that comes with the request, and is kept nowhere."""
        self._remember(_owner(request))
        try:
            file, drawn = _file(picture, self.service), _file(mask, self.service)
            given = {
                "instruction": instruction, "seed": seed, "count": count, "steps": steps,
                "guidance": guidance, "image_guidance": image_guidance, "size": size, "detail": detail,
                "boxes": boxes, "images": [_file(path, self.service) for path in images or ()],
                "mask": None if drawn is None else read_mask(drawn, bounds=self.service.bounds),
            }  # fmt: skip
            ticket = await asyncio.to_thread(
                self.service.ask, _owner(request), given, file=file, name=picture or ""
            )
            async for told in _told(ticket):
                if not told.done:
                    yield (
                        None,
                        {"stage": told.stage, "said": told.said, "step": told.step, "steps": told.steps},
                    )
            told = ticket.told
            if told.error is not None:
                raise DataError(told.error)
            turns = told.result
            files = [await asyncio.to_thread(write_turn, turn, self.folder, strip=False) for turn in turns]
            facts = [{"instruction": turn.instruction, "said": turn.said, **turn.facts} for turn in turns]
            yield [str(each) for each in files], {"stage": "done", "edits": facts}
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def api_cancel(self, request: gr.Request) -> Any:
        """How many requests were cancelled."""
        self._remember(_owner(request))
        return {"cancelled": self.service.cancel(_owner(request))}

    def _remember(self, program: str) -> None:
        """The library remembers this one, and forgets one that was here long ago."""
        self._programs[program] = None
        self._programs.move_to_end(program)
        while len(self._programs) > PROGRAMS:
            self.forget(self._programs.popitem(last=False)[0])


def _owner(request: gr.Request) -> str:
    """Which open page it is."""
    return str(request.session_hash or "")[:64]
