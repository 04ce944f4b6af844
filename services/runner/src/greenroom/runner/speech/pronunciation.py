"""How words are pronounced: what a grammar needs of the CMU dictionary, all of which would be 22 MB in a decoder."""

from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

# All that words of the dictionary are made of, as it names them.
PHONES: Final = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH"),
    *("K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)


class Pronunciation(NamedTuple):
    """A word, with a number in brackets if it is the second or a later way to say it, and its phones."""

    word: str
    phones: str


def pronunciations(dictionary: Path, words: Collection[str]) -> list[Pronunciation]:
    """Return all ways to say some words, each word's first one before its others.

    Raises:
        ValueError: there are words that the dictionary doesn't have.
    """
    wanted = {word.encode() for word in words}
    found: list[Pronunciation] = []
    missing = set(words)
    with dictionary.open("rb") as lines:
        for line in lines:
            name, _, phones = line.partition(b" ")
            if name.partition(b"(")[0] in wanted:
                entry = Pronunciation(name.decode(), phones.decode().strip())
                found.append(entry)
                missing.discard(entry.word)
    if missing:
        raise ValueError(f"the grammar has words without a pronunciation: {', '.join(sorted(missing))}")
    return found
