"""Names as they are written: escaped for figures, for Markdown and for LaTeX."""

import re

from decrop.errors import printable

# Shows nothing. matplotlib leaves what begins with an underscore out of legends.
_ZERO_WIDTH_SPACE = "\u200b"
_LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
# Of what Markdown reads as a mark only where something stands beside it, only that.
_MARKDOWN_SIGNS = re.compile(
    r"[\\`*|$~]|\](?=[(\[:])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|^[#>]|(?<![^\W_])_|_(?![^\W_])"
)
# Readers of Markdown differ in whether a backslash escapes them.
_HTML_SIGNS = {"$": "&#36;", "<": "&lt;", "&": "&amp;"}


def figure_text(text: str) -> str:
    """Return a text that matplotlib draws as it is: no mathematics, and in a legend always."""
    shown = printable(text).replace("$", r"\$")
    return _ZERO_WIDTH_SPACE + shown if shown.startswith("_") else shown


def markdown_text(text: str) -> str:
    """Return a text whose signs Markdown, and HTML in it, does not take for marks."""
    return _MARKDOWN_SIGNS.sub(
        lambda sign: _HTML_SIGNS.get(sign[0], f"\\{sign[0]}"), printable(text)
    )


def latex_text(text: str) -> str:
    """Return a text whose signs LaTeX does not take for commands."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in printable(text))
