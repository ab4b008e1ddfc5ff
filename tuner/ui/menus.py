"""Menus that tell of a choice once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

_BEFORE = "document.getElementById(%s).dataset.before"


def on_chosen(
    menu: gr.Dropdown, handler: Callable[..., Any], outputs: Sequence[Component], *more: Component, **options: Any
) -> Any:
    """Call ``handler`` when a person chooses from a menu.

    Gradio's menu also speaks up whenever it is left: right after a choice, and when a person only looked into it.
    Taken for a choice, that would undo whatever was changed since. The browser therefore remembers what stood in
    the menu and sends ``None`` where it still does. An entry picked with the mouse counts even so: it is the way
    back to it.

    Args:
        menu: The menu; needs an ``elem_id``.
        handler: Takes the chosen value, or ``None`` when nothing was chosen, and the values of ``more``.
        outputs: What ``handler`` changes.
        more: Further inputs.
        options: Of the event.

    Returns:
        The event.
    """
    before = _BEFORE % json.dumps(menu.elem_id)
    menu.focus(None, menu, None, js=f"now => {{ {before} = now ?? '' }}", api_visibility="private")
    menu.select(None, None, None, js=f"() => {{ delete {before} }}", api_visibility="private")
    changed = (
        f"(now, ...rest) => {{ const was = {before}; {before} = now ?? '';"
        " return [was === (now ?? '') ? null : now, ...rest] }"
    )
    return menu.input(handler, [menu, *more], list(outputs), js=changed, trigger_mode="always_last", **options)
