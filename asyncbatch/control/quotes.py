"""What an endpoint says about rows, without the rows: quotes of the request are taken out of its messages. Pure.

People need the words of a model that refuses: nothing else says what is wrong. But many models quote the row, and messages end
up in logs, reports and tickets. So what the request held is replaced by `…` there. The full words stay with the data they
quote: in the `error` column and among the rejects.
"""

import re
from collections.abc import Collection

LEAST = 8
"""So many characters in a row that the request holds too are a quote."""
MOST_SEARCHED_BYTES = 256 * 1024
"""Searching a body of this size takes about 30 ms; callers on the event loop leave out the words beyond it."""
_SHOWN = 300
_ENVELOPE = frozenset(
    ("instances", "records", "columns", "data", "inputs", "dataframe_split", "dataframe_records", "features")
)
_IN_QUOTES = re.compile(r"(['\"`])(.{1,200}?)\1")
_CUT_WORD = re.compile(r"\S*$")
_WORD = re.compile(r"[^\W_][\w.+-]*")
_NUMBERS = re.compile(r"(?:[-+]?\d[\d.eE+-]*[\s,;\[\]()]+){2,}[-+]?\d[\d.eE+-]*")


def without_quotes(text: str, sent: bytes, names: Collection[str]) -> str:
    """`text` on one line, at most 300 characters, with `…` for what `sent` holds.

    Taken out are: text in quotation marks, and numbers of three characters and more, that stand as such in the request; any
    stretch of eight characters and more that it holds; and where it is binary, rows of numbers. Names of columns stay.

    Args:
        text: what the endpoint said.
        sent: the body of the request.
        names: the columns sent, which are no secret.
    """
    text = " ".join(text.split())
    if len(text) > _SHOWN:
        # A word that is cut in two would no longer be found in the request.
        text = _CUT_WORD.sub("", text[:_SHOWN]) + "…"
    known = {*names, *_ENVELOPE}
    hidden = bytearray(len(text))
    for found in _IN_QUOTES.finditer(text):
        if found[2] not in known and _stands_in(found[2], sent):
            _hide(hidden, *found.span(2))
    words = list(_WORD.finditer(text))
    for word in words:
        if not hidden[word.start()]:
            _hide_stretch(hidden, text, word.start(), sent, known)
    for word in words:
        if len(word[0]) >= 3 and any(map(str.isdigit, word[0])) and _stands_in(word[0], sent):
            _hide(hidden, *word.span())
    if b"\0" in sent:
        for found in _NUMBERS.finditer(text):
            _hide(hidden, *found.span())
    return _shown(text, hidden)


def _hide(hidden: bytearray, start: int, stop: int) -> None:
    hidden[start:stop] = b"\1" * (stop - start)


def _hide_stretch(hidden: bytearray, text: str, start: int, sent: bytes, known: Collection[str]) -> None:
    """Hide the longest stretch from `start` that the request holds, unless it is made of known names."""
    stop = start + LEAST
    if stop > len(text) or text[start:stop].encode() not in sent:
        return
    while stop < len(text) and text[start : stop + 1].encode() in sent:
        stop += 1
    stretch = text[start:stop]
    if not all(any(name.startswith(word) for name in known) for word in re.findall(r"\w+", stretch)):
        _hide(hidden, start, stop)


def _stands_in(value: str, sent: bytes) -> bool:
    """Whether `value` is a whole word or value of the request."""
    needle = value.encode()
    at = sent.find(needle)
    while at >= 0:
        before, after = sent[at - 1 : at] if at else b"", sent[at + len(needle) : at + len(needle) + 1]
        if not (before.isalnum() or after.isalnum()):
            return True
        at = sent.find(needle, at + 1)
    return False


def _shown(text: str, hidden: bytearray) -> str:
    pieces = [text[at] if not hidden[at] else "…" for at in range(len(text))]
    return re.sub(r"…(?:[^\w\s]{0,3}\s?[^\w\s]{0,3}…)+", "…", "".join(pieces))
