"""Objects as text and as small tables."""

import html
from collections.abc import Mapping

_SHOWN_MAX = 80


def shortened(value: object) -> str:
    """The `repr` of a value, cut where it gets long.

    Example:
        >>> shortened([1, 2]), len(shortened(list(range(1000))))
        ('[1, 2]', 81)
    """
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"


def table(caption: str, rows: Mapping[str, object]) -> str:
    """A small HTML table of names and values.

    Example:
        >>> table("Order", {"id": "<1>"})
        '<table><caption>Order</caption><tr><th>id</th><td>&#x27;&lt;1&gt;&#x27;</td></tr></table>'
    """
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(shortened(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<table><caption>{html.escape(caption)}</caption>{cells}</table>"
