"""Which option is probably wrong: from what was sent and what the endpoint said to it. Pure, and only ever a guess.

Each usual mistake is a function that looks for its own traces; `refusal_advice` asks them in order, the surest first. A
piece of advice names the option that fixes the mistake, ready to be typed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from asyncbatch.source.misread import misread_names

ColumnKind = Literal["number", "text", "other"]

BODY_TYPES = {
    "text/csv": "csv",
    "application/json": "json",
    "application/jsonlines": "jsonl",
    "application/x-npy": "npy",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    "application/vnd.apache.arrow.stream": "arrow",
}
"""Media types that servers name, and the `--body` that makes them; the likelier first."""
_REFUSED_TYPE = re.compile(
    r"not supported|unsupported|only supports|expected request with|media type", re.IGNORECASE
)
_NO_NUMBER = re.compile(
    r"convert string to float|could not convert|not a number|parse (?:float|number)|invalid literal|dtype|numeric",
    re.IGNORECASE,
)
_FEATURES = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"inference data (?P<found>\d+) is not consistent with feature size of trained model (?P<wanted>\d+)",
        r"has (?P<found>\d+) features?, but .{1,80} is expecting (?P<wanted>\d+)",
        r"feature shape mismatch, expected: (?P<wanted>\d+), got (?P<found>\d+)",
        r"columns: (?P<found>\d+) features: (?P<wanted>\d+)",
        r"features in data \((?P<found>\d+)\) is not the same as it was in training data \((?P<wanted>\d+)\)",
        r"got:? (?P<found>\d+),? expected:? (?P<wanted>\d+)",
        r"expected (?P<wanted>\d+) (?:columns|features|values), (?:but )?got (?P<found>\d+)",
        r"takes (?P<wanted>\d+) (?:columns|features|values|inputs), (?:but )?got (?P<found>\d+)",
        r"with (?P<found>\d+) columns\b.{1,80}\btakes (?P<wanted>\d+) inputs",
    )
)
"""How containers and libraries say that the number of columns is wrong."""
_ID_NAME = re.compile(
    r"(?:.*_)?(?:id|uuid|guid|key)|index|row(?:_?(?:id|no|num|number|index))?|unnamed: 0", re.IGNORECASE
)
_CAMEL_ID = re.compile(r".*[a-z](?:Id|ID|Uuid|UUID)")
_LABEL_NAME = re.compile(
    r"(?:true_?)?(?:labels?|targets?|class|outcome|ground_?truth|response)|y(?:_?true)?|(?:label|target|class)_.*|.*_(?:label|target)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that is sent, as its sample shows it."""

    name: str
    kind: ColumnKind
    distinct: bool = False
    """No two of many sampled values are equal."""
    name_like: bool = False
    """Text whose first value alone is no number."""

    @property
    def looks_like_id(self) -> bool:
        """By its name, or because it is text that never repeats."""
        named = _ID_NAME.fullmatch(self.name) or _CAMEL_ID.fullmatch(self.name)
        return bool(named) or (self.kind == "text" and self.distinct)

    @property
    def looks_like_label(self) -> bool:
        """By its name."""
        return _LABEL_NAME.fullmatch(self.name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the request was made of."""

    columns: Sequence[Column]
    body: str
    """`--body`."""
    template: str | None = None
    row: str = "array"
    content_type: str = ""
    """As sent."""
    content_type_given: bool = False
    """By `--content-type`."""
    accept: str | None = None
    no_header: bool = False
    """`--no-header`: the first line of the input is a row."""
    text_source: bool = False
    """The input is CSV: its columns' names and types are read from text."""

    @property
    def wants_numbers(self) -> bool:
        """A body whose cells are written without their types."""
        return self.body.startswith("csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What the endpoint said."""

    status: int | None
    """The container's own, where SageMaker passes it on."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A mistake and the option that fixes it."""

    mistake: str
    fix: str
    """Options, ready to be typed, perhaps with a word before them."""

    def sentence(self) -> str:
        return f"{self.mistake}: {self.fix}"


def refusal_advice(sent: Sent, refused: Refused) -> tuple[Advice, ...]:
    """What may be wrong with a request that was refused, the likeliest first; may be empty."""
    return _unique(advice for look in _LOOKS for advice in look(sent, refused))


def reply_advice(sent: Sent) -> tuple[Advice, ...]:
    """What may be wrong where replies came and could not be read."""
    found = list(_misread_input(sent))
    if sent.accept is not None:
        found.append(
            Advice(
                mistake=f"replies come in the form that --accept {sent.accept} asks for",
                fix="leave --accept out",
            )
        )
    return _unique(found)


def column_advice(sent: Sent) -> tuple[Advice, ...]:
    """What to look at although the endpoint answered: some take wrong columns without a word."""
    found = list(_misread_input(sent))
    ids = [column.name for column in sent.columns if column.looks_like_id]
    labels = [column.name for column in sent.columns if column.looks_like_label and column.name not in ids]
    if sent.body != "raw" and len(sent.columns) > 1:
        for names, what in ((ids, "an id"), (labels, "a label")):
            if names:
                found.append(
                    Advice(
                        mistake=f"{_quoted(names)} {_are(names)} sent and may be {what}", fix=_no_send(names)
                    )
                )
    return _unique(found)


# -- one function a mistake ------------------------------------------------------------------------------------------------


def _misread_input(sent: Sent, _refused: Refused | None = None) -> Iterator[Advice]:
    """The file itself was read wrongly."""
    if not sent.text_source:
        return
    for mistake, fix in misread_names([column.name for column in sent.columns]):
        yield Advice(mistake=mistake, fix=fix)
    if sent.no_header and any(column.name_like for column in sent.columns):
        yield Advice(
            mistake="the input's first line, which holds names, is taken for a row",
            fix="leave --no-header out",
        )


def _accept(sent: Sent, refused: Refused) -> Iterator[Advice]:
    if sent.accept is None or not (
        refused.status == 406 or "accept" in refused.text.lower() or sent.accept in refused.text
    ):
        return
    named = _other_types(refused.text, sent.accept)
    known = [media for media in ("text/csv", "application/json", "application/x-npy") if media in named]
    mistake = f"the server makes no {sent.accept}"
    yield Advice(
        mistake=mistake, fix=f"--accept {known[0]}, or leave --accept out" if known else "leave --accept out"
    )


def _content_type(sent: Sent, refused: Refused) -> Iterator[Advice]:
    media = sent.content_type.partition(";")[0].strip().lower()
    own = {kind for name, kind in BODY_TYPES.items() if name == media}
    made = sent.body.removesuffix("-header")
    if sent.content_type_given and own and made not in own and sent.body != "raw":
        yield Advice(
            mistake=f"the body is {made}, and --content-type {sent.content_type} says otherwise",
            fix=f"--body {next(iter(own))}",
        )
        return
    if (
        not (refused.status == 415 and _REFUSED_TYPE.search(refused.text))
        and sent.content_type not in refused.text
    ):
        return
    if not _REFUSED_TYPE.search(refused.text):
        return
    if ";" in sent.content_type and sent.content_type in refused.text:
        yield Advice(
            mistake=f"the server looks up the whole Content-Type {sent.content_type!r}",
            fix=f"--content-type {media}",
        )
        return
    named = _other_types(refused.text, media)
    taken = [body for name, body in BODY_TYPES.items() if name in named]
    mistake = f"the server takes no {media}"
    if made in taken:
        own_name = next(name for name, body in BODY_TYPES.items() if name in named and body == made)
        yield Advice(mistake=mistake, fix=f"--content-type {own_name}")
    elif sent.body == "raw" and "json" in taken:
        yield Advice(mistake=mistake, fix="--template '{\"inputs\": $row}'")
    elif taken:
        yield Advice(mistake=mistake, fix=" or ".join(f"--body {body}" for body in dict.fromkeys(taken)))
    elif sent.content_type_given:
        yield Advice(mistake=mistake, fix="leave --content-type out, or choose another --body")
    else:
        usual = [f"--body {body}" for body in ("csv", "json") if body != made]
        fix = f"{' or '.join(usual)}, or name the body's type with --content-type"
        yield Advice(mistake=mistake, fix=fix)


def _envelope(sent: Sent, refused: Refused) -> Iterator[Advice]:
    """JSON of another form than the server wants."""
    text = refused.text
    json_sent = sent.body == "json"
    lowered = text.lower()
    if "expected a string" in lowered and "inputs" in lowered:
        fix = "--body raw --template '{\"inputs\": $row}' --send the column with the prompt"
        yield Advice(mistake="the server takes one prompt a request", fix=fix)
    elif "header columns" in lowered and sent.wants_numbers:
        yield Advice(
            mistake="the server wants a header line that names the column inputs, or JSON",
            fix="--body json --template inputs --row value",
        )
    elif "dataframe_split" in text and sent.template not in ("split", "records"):
        yield Advice(mistake="the server wants one of MLflow's envelopes", fix="--body json --template split")
    elif "text input must be" in lowered or "'list' object has no attribute 'pop'" in text:
        yield Advice(
            mistake="the server wants a list of texts as inputs",
            fix="--body json --template inputs --row value",
        )
    elif re.search(r"expected 2d array, got (?:scalar|1d) array", lowered) and json_sent:
        yield Advice(
            mistake="the server wants the bare list of rows",
            fix="--row array" if sent.row == "value" else "--template '$rows'",
        )
    elif re.search(r"\binputs\b", text) and re.search(
        r"missing|keyerror|required|unable to|parse|field|object", lowered
    ):
        both = "--body json --template v2 (a tensor a column) or --body json --template inputs"
        fix = {"inputs": "--template v2", "v2": "--template inputs"}.get(sent.template or "", both)
        yield Advice(mistake="the server wants inputs of another form", fix=fix)
    elif re.search(r"\binstances\b", text) and sent.template not in (None, "instances"):
        yield Advice(mistake="the server wants an object with instances", fix="--template instances")
    elif (
        re.search(r"\bjson\b", lowered)
        and not json_sent
        and not sent.body.startswith("jsonl")
        and _says_unparsed(lowered)
    ):
        yield Advice(mistake="the server wants JSON", fix="--body json")


def _header_line(sent: Sent, refused: Refused) -> Iterator[Advice]:
    if sent.body == "csv-header" and _NO_NUMBER.search(refused.text):
        yield Advice(mistake="the header line is read as a row", fix="--body csv, which sends none")
    if sent.body == "csv" and re.search(
        r"enforce schema|missing inputs|column names|feature names", refused.text, re.IGNORECASE
    ):
        yield Advice(mistake="the server knows columns by their names", fix="--body csv-header")


def _text_columns(sent: Sent, refused: Refused) -> Iterator[Advice]:
    if not (sent.wants_numbers and _NO_NUMBER.search(refused.text)):
        return
    texts = [column for column in sent.columns if column.kind == "text"]
    if texts:
        names = [column.name for column in sent.columns if column in texts or column.looks_like_label]
        what = (
            "holds text, and the model wants numbers"
            if len(texts) == 1
            else "hold text, and the model wants numbers"
        )
        yield Advice(mistake=f"{_quoted([column.name for column in texts])} {what}", fix=_no_send(names))


def _feature_count(sent: Sent, refused: Refused) -> Iterator[Advice]:
    matches = (pattern.search(refused.text) for pattern in _FEATURES)
    match = next((each for each in matches if each is not None), None)
    if match is None:
        return
    wanted, found = int(match["wanted"]), len(sent.columns)
    said = int(match["found"])
    if said == 1 and found > 1 and sent.wants_numbers:
        return  # something other than the columns was counted
    if found > wanted:
        suspects = [column.name for column in sent.columns if column.looks_like_id or column.looks_like_label]
        mistake = f"the model takes {_columns(wanted)}, and {found} {'is' if found == 1 else 'are'} sent"
        if suspects and len(suspects) <= found - wanted:
            yield Advice(mistake=mistake, fix=_no_send(suspects))
        else:
            yield Advice(
                mistake=mistake,
                fix=f"name the {wanted} with --send, or leave {found - wanted} out with --no-send",
            )
    elif found < wanted:
        yield Advice(
            mistake=f"the model takes {_columns(wanted)}, and {found} {'is' if found == 1 else 'are'} sent",
            fix="name all of them with --send, or fewer with --no-send",
        )


def _one_column(sent: Sent, refused: Refused) -> Iterator[Advice]:
    if sent.wants_numbers and len(sent.columns) == 1 and "got 1D array" in refused.text:
        yield Advice(
            mistake="the server cannot tell one column of CSV from one row",
            fix="--body npy, or --body json --template '$rows'",
        )


def _suspects(sent: Sent, _refused: Refused) -> Iterator[Advice]:
    """Nothing better is known: columns that are not the model's business by their looks."""
    names = [column.name for column in sent.columns if column.looks_like_id or column.looks_like_label]
    if names and len(names) < len(sent.columns) and sent.body != "raw":
        yield Advice(
            mistake=f"{_quoted(names)} {_are(names)} sent and may be no feature", fix=_no_send(names)
        )


_LOOKS: tuple[Callable[[Sent, Refused], Iterator[Advice]], ...] = (
    _misread_input,
    _accept,
    _content_type,
    _header_line,
    _envelope,
    _text_columns,
    _feature_count,
    _one_column,
    _suspects,
)


# -- words ---------------------------------------------------------------------------------------------------------------------


def _other_types(text: str, own: str) -> set[str]:
    """The media types that a message names, but for the one that was sent."""
    return set(re.findall(r"\b(?:text|application)/[\w.+-]*\w", text.lower())) - {
        own.partition(";")[0].strip().lower()
    }


def _says_unparsed(lowered: str) -> bool:
    return any(
        word in lowered
        for word in ("parse", "decode", "expecting", "invalid", "malformed", "expected", "valid")
    )


def _no_send(names: Sequence[str]) -> str:
    listed = ",".join(names)
    return f"--no-send {listed}" if re.fullmatch(r"[\w.,*-]+", listed) else f"--no-send '{listed}'"


def _quoted(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:4]] + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return ("column " if len(names) == 1 else "columns ") + " and ".join(
        filter(None, [", ".join(shown[:-1]), shown[-1]])
    )


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _unique(found: Iterator[Advice] | Sequence[Advice]) -> tuple[Advice, ...]:
    return tuple(dict.fromkeys(found))
