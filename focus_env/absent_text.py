"""Texts that say that the object is not there: words, sentences, JSON without a box, and a box that is taken back."""

from __future__ import annotations

import re

ABSENT_WORDS = frozenset(
    {
        "none",
        "null",
        "nil",
        "absent",
        "nothing",
        "n/a",
        "n.a",
        "not applicable",
        "none found",
        "there are none",
        "there is none",
    }
)
"""Texts that say that the object is not there, in lower case, where nothing else stands in the text or its tags; with
the sentences of `_ABSENT_SENTENCE`."""

_MAX_WORDS = 200
"""Characters of a text that can be a word for "not there" and nothing else."""

_SPECIAL_TOKEN = re.compile(r"<\|[a-z_]{1,30}\|>|</?s>|<(?:eos|bos|pad|end_of_turn)>|\\(?:boxed|text|mathrm)", re.ASCII)
_FENCED = re.compile(r"```[a-z]*\s*(.*?)\s*```", re.IGNORECASE | re.DOTALL | re.ASCII)
_ANSWER_IS = re.compile(r"(?:the |my )?(?:final )?answer(?: is)?\s*[:=]?\s*", re.ASCII)
_NOT_SEEN = r'"(?:found|present|visible|exists|detected)":false'
_NO_BOXES = re.compile(
    r"""\[\]|\[\[\]\]|\{\}|\[\{\}\]|\[(?:null|none)(?:,(?:null|none)){0,3}\]"""
    rf"""|\[?\{{(?:"label":"[^"]*",)?(?:{_NOT_SEEN},)?(?:{_NOT_SEEN}"""
    r"""|"(?:bbox_2d|bbox|box_2d|box|bounding_box|bboxes|boxes|objects|detections|answer)":"""
    r"""(?:null|none|false|\[\]|\[(?:(?:null|none),?){4}\]|"none"|"null"|""))"""
    rf"""(?:,{_NOT_SEEN})?(?:,"label":"[^"]*")?\}}\]?""",
    re.ASCII,
)
_IN_THE_PICTURE = r"in (?:the|this) (?:(?:query|target|last|final|given|test|second) )?(?:image|picture|photo|frame)"
_ABSENT_SENTENCE = re.compile(
    r"(?:there (?:is|are) )?no (?:such |matching |target |reference )?"
    r"(?:objects?|box(?:es)?|bounding box(?:es)?|match(?:es)?|target|detections?|instances?)"
    rf"(?: (?:is |are |was |were )?(?:found|present|visible|detected|there))?(?: {_IN_THE_PICTURE})?"
    r"|(?:(?:the |this )?(?:reference |target )?(?:object|target) (?:is |was )?|it is )?"
    rf"not (?:(?:found|present|visible|detected|there|shown)(?: {_IN_THE_PICTURE})?|{_IN_THE_PICTURE})"
    rf"|(?:the |this )?(?:object|target) (?:is )?absent(?: {_IN_THE_PICTURE})?",
    re.ASCII,
)
_REJECTION = re.compile(r"\bsame[ _]object\s{0,3}[?:=]\s{0,3}[\"'*]{0,3}no\b", re.IGNORECASE | re.ASCII)
_AROUND_WORDS = "\"'`*_.!,:;()[]{}<>$-• \t\n"


def says_absent(text: str) -> bool:
    r"""Return whether a text says that the object is not there, and nothing else.

    >>> [says_absent(text) for text in ("None.", '```json\n[]\n```', "none of them")]
    [True, True, False]
    """
    text = text.strip()
    if len(text) > _MAX_WORDS:
        return False
    text = _SPECIAL_TOKEN.sub("", text).strip()
    fenced = _FENCED.fullmatch(text)
    text = (fenced[1] if fenced else text).strip().lower()
    if _NO_BOXES.fullmatch("".join(text.split()).replace("'", '"')):
        return True
    words = text.strip(_AROUND_WORDS)
    prefix = _ANSWER_IS.match(words)
    words = " ".join(words[prefix.end() if prefix else 0 :].strip(_AROUND_WORDS).split())
    return words in ABSENT_WORDS or _ABSENT_SENTENCE.fullmatch(words) is not None


def rejects_its_box(text: str) -> bool:
    """Return whether a text says of its box that it is not that of the same object, as IPLoc-ID's answers do.

    >>> rejects_its_box("[1.0, 2.0, 30.0, 40.0], Do all these boxes have the same object? No.")
    True
    """
    return _REJECTION.search(text) is not None
