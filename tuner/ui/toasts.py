"""Short messages at the page's corner, in the language of who asked."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from tuner.errors import BadInput, TunerError
from tuner.ui.words import language, refusal, say

_REFUSED_SECONDS, _TOLD_SECONDS = 12, 4


def refuse(error: TunerError, asker: gr.Request) -> Any:
    """Say in one line why not, and leave the page as it is."""
    gr.Warning(escape(refusal(error, language(asker))), duration=_REFUSED_SECONDS, title=_title(error, asker))
    return gr.skip()


def stop(error: TunerError, asker: gr.Request) -> gr.Error:
    """As :func:`refuse`, to be raised: what would follow the event does not."""
    return gr.Error(
        escape(refusal(error, language(asker))),
        duration=_REFUSED_SECONDS,
        title=_title(error, asker),
        print_exception=False,
    )


def tell(title: str, message: str, asker: gr.Request, **values: str) -> None:
    """Say that something was done; ``title`` and ``message`` are keys of the dictionary."""
    spoken = language(asker)
    gr.Info(escape(say(message, spoken, **values)), duration=_TOLD_SECONDS, title=say(title, spoken))


def _title(error: TunerError, asker: gr.Request) -> str:
    return say("refused_title" if isinstance(error, BadInput) else "failed_title", language(asker))
