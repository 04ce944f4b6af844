"""Text as PostgreSQL is given it to be searched, and what is searched for: the same on both sides.

Its parser goes by the locale of the database. In some of them every character beyond ASCII is a letter, so that a word
in typographic quotes is another word; and in all of them what is between two angle brackets is a tag, which is neither
indexed nor shown. So punctuation is put into ASCII, one character for one, and what can't be is a space.
"""

import unicodedata
from typing import Final

_ASCII: Final = str.maketrans(
    {
        **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
        **dict.fromkeys("\N{DOUBLE LOW-9 QUOTATION MARK}\u00ab\u00bb", '"'),
        **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'"),
        **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}", "-"),
        "\N{HORIZONTAL ELLIPSIS}": ".",
        "<": "(",
        ">": ")",
    }
)
# Punctuation, symbols and spaces; letters, their marks, numbers and joiners stay.
_NO_WORDS: Final = frozenset("PSZ")


def searchable(text: str) -> str:
    """Return a text of the same length whose words are told apart by ASCII."""
    # Nearly all text is, and to translate it takes fifty times as long.
    if text.isascii():
        return text.replace("<", "(").replace(">", ")")
    text = text.translate(_ASCII)
    return "".join(
        " " if not character.isascii() and unicodedata.category(character)[0] in _NO_WORDS else character
        for character in text
    )
