"""How the page is served: on which address, to whom, with which limits of its library."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from mgie.web.guard import Guard
from mgie.web.page import Page
from mgie.web.service import Service

KEPT = (300, 1800)
"""Every so many seconds, files that are older than so many are put away."""
CSS = """
.gradio-container {width: 100% !important; max-width: 1200px !important; margin: auto !important}
#told, #told > .html-container {padding: 0 !important}
.mgie-told {padding: 12px 14px; border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: var(--block-background-fill); min-height: 48px}
.mgie-told p {margin: 0 0 6px} .mgie-told img {width: min(100%, 420px); border-radius: 6px; margin-top: 8px;
  display: block} .mgie-told progress {width: 100%; height: 10px; accent-color: var(--color-accent)}
.mgie-told progress[value] {appearance: none; border: 0; border-radius: 5px; overflow: hidden;
  background: var(--border-color-primary)}
.mgie-told progress::-webkit-progress-bar {background: var(--border-color-primary)}
.mgie-told progress::-webkit-progress-value {background: var(--color-accent)}
.mgie-told progress::-moz-progress-bar {background: var(--color-accent)}
.mgie-line, .mgie-idle {color: var(--body-text-color)} .mgie-line {font-size: .9em; opacity: .85}
.mgie-said {margin: 6px 0 8px !important; padding-left: 12px; border-left: 3px solid var(--color-accent);
  font-size: 1.1em; color: var(--body-text-color); overflow-wrap: anywhere}
.mgie-wrong {border-color: #b91c1c; color: var(--body-text-color); border-left-width: 4px}
.mgie-tree label {width: 100%} footer .divider {display: none !important}
:focus-visible {outline: 2px solid var(--color-accent) !important; outline-offset: 2px}
"""
KEYS = """() => document.addEventListener("keydown", (event) => {
  const one = event.target.closest("#history input");
  const by = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key];
  if (!one || !by) return;
  event.preventDefault();
  const all = [...document.querySelectorAll("#history input")];
  const next = all[(all.indexOf(one) + by + all.length) % all.length];
  next.focus();
  next.click();
})"""
"""Arrows go through the history: the library's list leaves its entries apart, and they would do nothing."""


def build(service: Service, *, folder: Path, title: str) -> gr.Blocks:
    """The page. Files that somebody downloads, or that came, lie in `folder`."""
    page = Page(service, folder)
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=KEPT) as blocks:
        page.lay_out(title)
        blocks.unload(page.leave)
    page.forget = partial(_forget, blocks)
    for block in blocks.blocks.values():
        if hasattr(block, "async_move_resource_to_block_cache"):
            block.async_move_resource_to_block_cache = _own_files(block.async_move_resource_to_block_cache)
    return blocks


def launch(
    service: Service,
    *,
    host: str,
    port: int,
    folder: Path,
    users: list[tuple[str, str]] | None = None,
    model: str = "",
) -> tuple[str, Callable[[], None]]:
    """Serve the page from threads of its own; its address, and what ends it."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    blocks = build(service, folder=folder, title=f"mgie: {Path(model).name}" if model else "mgie")
    # The worker's queue is the one that counts; this one only keeps out floods.
    blocks.queue(max_size=50 * service.bounds.waiting, default_concurrency_limit=None)
    most = service.bounds.most_bytes
    _, url, _ = blocks.launch(
        server_name=host, server_port=port, auth=users, prevent_thread_lock=True, share=False, quiet=True,
        show_error=False, ssr_mode=False, max_file_size=most, footer_links=["api"], enable_monitoring=False,
        state_session_capacity=1000, strict_cors=True, run_history=False, css=CSS, js=KEYS, pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": [(Guard, (), {"most": most})]},
    )  # fmt: skip
    return url, partial(blocks.close, verbose=False)


def _forget(blocks: gr.Blocks, session: str) -> None:
    """Let go of what the library keeps of a session: 80 kB, and by itself it forgets none."""
    holder = blocks.state_holder
    with holder.lock:
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)


def _own_files(move: Any) -> Any:
    """Only files that came to this page are read: no address of another host."""

    async def moved(path: Any) -> Any:
        if isinstance(path, str | Path) and "://" in str(path):
            raise ValueError("a file at another host")
        return await move(path)

    return moved
