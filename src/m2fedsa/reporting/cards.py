"""What the pages of the reports are laid out with."""

from html import escape


def section(title: str, *parts: str, kind: str = "") -> str:
    """A card."""
    return f'<section class="{kind}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def note(text: str) -> str:
    """A remark below a picture."""
    return f'<p class="quiet"><small>{escape(text)}</small></p>'


def row(*sections: str, kind: str = "") -> str:
    """Cards side by side where there is room: equal ones, `two` large ones, or an `uneven` pair."""
    return f'<div class="row {kind}">{"".join(sections)}</div>'
