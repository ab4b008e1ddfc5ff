"""Short messages at the page's corner, in the language of who asked."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from tuner.errors import TunerError
from tuner.ui.refusals import refusal
from tuner.ui.words import language, say

_REFUSED_SECONDS, _TOLD_SECONDS = 12, 4


def refuse(error: TunerError, asker: gr.Request) -> Any:
    """Say in one line why not, and leave the page as it is."""
    gr.Warning(escape(refusal(error, language(asker))), duration=_REFUSED_SECONDS)
    return gr.skip()


def stop(error: TunerError, asker: gr.Request) -> gr.Error:
    """As :func:`refuse`, to be raised: what would follow the event does not."""
    return gr.Error(escape(refusal(error, language(asker))), duration=_REFUSED_SECONDS, print_exception=False)


def tell(message: str, asker: gr.Request, **values: str) -> None:
    """Say that something was done; ``message`` is a key of the dictionary."""
    gr.Info(escape(say(message, language(asker), **values)), duration=_TOLD_SECONDS)
