"""
Statements by their fingerprint, without their literals.

Three steps, each asked only where the one before has no answer: the exact bytes; the *shape*, what one regex leaves
when it drops literals and comments; the *canonical text*, tokens in lower case with a placeholder for each literal,
which libpg_query parses. Nothing but the canonical text is ever shown or kept, and of a text that does not parse only
its keywords and signs: any other word could be from the inside of a literal that was torn open.

A fingerprint is libpg_query's, which ignores literals, layout, comments, case and the length of lists. It also ignores
the schema of a table, which is added here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

VERSION = 1
"""Rises whenever a statement may get another fingerprint than before; part of the metrics' definition."""

LABEL_LENGTH = 120

_LONGEST_KEPT = 2048
_MOST_TEXTS = 1 << 16
_MOST_GROUPS = 1 << 15
_LONGEST_PARSED = 1 << 18


@dataclass(frozen=True, slots=True)
class Group:
    """
    What statements of one fingerprint have in common.

    Attributes:
        fingerprint: 16 hexadecimal digits.
        query: The first one's canonical text, for display, at most ``LABEL_LENGTH`` characters.
        parsed: Whether it is PostgreSQL's SQL as far as libpg_query knows; else its tokens were hashed.
    """

    fingerprint: str
    query: str
    parsed: bool


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------

_LITERAL = rb"(?:'[^']*+(?:''[^']*+)*+'|-?\d[\d.]*+|(?i:null|true|false|default)\b)"
_RUN = rb"(?:\s*+(?:,|\)\s*+,\s*+\()\s*+" + _LITERAL + rb")*+"
# It begins with a class of characters, so that re skips over everything else in one tight loop. The first group marks a
# run of literals that begins with a string, the second holds a quoted identifier, the third marks a run that begins
# with a number; none is a comment.
_SHAPE = re.compile(
    rb"""["'0-9/\-](?:"""
    rb"""(?<=')[^']*+(?:''[^']*+)*+'""" + _RUN + rb"()"
    rb"""|(?<=")([^"]*+")"""
    rb"""|(?<![\w.$\x80-\xff]\d)(?<=\d)[\d.]*+""" + _RUN + rb"()"
    rb"""|(?<=-)-[^\n]*+"""
    rb"""|(?<=/)\*[^*]*+\*++(?:[^/*][^*]*+\*++)*+/)"""
)
_DOLLAR = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*+)?\$")
_NESTED = re.compile(rb"/\*(?:[^*/]|\*(?!/)|/(?!\*))*+/\*")


def _is_simple(text: bytes) -> bool:
    """Tell whether the shape's regex sees the same literals as the tokeniser."""
    if b"\\" in text and (b"\\'" in text or b"e'" in text or b"E'" in text):
        return False
    if b"$" in text and _DOLLAR.search(text):
        return False
    return b"/*" not in text or not _NESTED.search(text)


def _without_literals(shape: tuple[bytes | None, ...]) -> bytes:
    """Return the shape as SQL, a placeholder for each run of literals."""
    pieces = [shape[0] or b""]
    for index in range(1, len(shape), 4):
        string, identifier, number, following = shape[index : index + 4]
        if string is not None:
            pieces.append(b"''")
        elif identifier is not None:
            pieces += (b'"', identifier)
        elif number is not None:
            pieces.append(b"1")
        else:
            pieces.append(b"\n")
        pieces.append(following or b"")
    return b"".join(pieces)


# ---------------------------------------------------------------------------------------------------------------------
# Canonical text
# ---------------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    rb"""
      (?P<space>\s++)
    | (?P<comment>--[^\n]*+ | /\*)
    | (?P<string>[eE]'(?:[^'\\]|''|\\.)*+(?:'|(?P<open_e>\\?\Z))
        | [uU]&'(?:[^']|'')*+(?:'|(?P<open_u>\Z))(?:\s*+uescape\s*+'(?:[^']|'')*+')?+
        | [nN]?'(?:[^']|'')*+(?:'|(?P<open_n>\Z))
        | \$(?P<tag>(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*+)?+)\$
          (?:(?!\$(?P=tag)\$).)*+(?:\$(?P=tag)\$|(?P<open_d>\Z)))
    | (?P<bits>[bBxX]'[^']*+(?:'|(?P<open_b>\Z)))
    | (?P<parameter>\$\d++)
    | (?P<number>0[xXoObB][\da-fA-F_]++ | (?:\d[\d_]*+(?:\.(?!\.)\d*+)?+ | \.\d++)(?:[eE][+-]?\d++)?+)
    | (?P<word>[A-Za-z_\x80-\xff][\w$\x80-\xff]*+)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*+(?:"|(?P<open_q>\Z)))
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_OPEN = ("open_e", "open_u", "open_n", "open_d", "open_b", "open_q")
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_PLACEHOLDERS = {"string": b"''", "bits": b"b''", "parameter": b"$1", "number": b"1"}
_LITERAL_WORDS = frozenset((b"null", b"true", b"false", b"default"))


@dataclass(slots=True)
class _Tokens:
    """
    A statement's tokens without its literals.

    Attributes:
        text: Each token, words in lower case.
        gap: What stands before each: nothing, a space or a line's end (which joins adjacent strings).
        literal: Which of them stand for literals.
        doubtful: Whether a string ends in a backslash, which only ends it under ``standard_conforming_strings``.
        torn: Whether it ends inside a literal, a quoted name or a comment.
    """

    text: list[bytes] = field(default_factory=list)
    gap: list[bytes] = field(default_factory=list)
    literal: list[bool] = field(default_factory=list)
    doubtful: bool = False
    torn: bool = False

    def add(self, token: bytes, gap: bytes, literal: bool) -> None:
        text = self.text
        if literal or token in _LITERAL_WORDS:
            # A literal after a literal and a comma, or after the next row of VALUES begins, only makes a list longer.
            at = len(text)
            if at and text[-1] == b"-" and token == b"1":
                at -= 1
            if at > 1 and text[at - 1] == b"," and self.literal[at - 2]:
                self.cut(at - 1)
                return
            if at > 3 and text[at - 3 : at] == [b")", b",", b"("] and self.literal[at - 4]:
                self.cut(at - 3)
                return
        text.append(token)
        self.gap.append(gap)
        self.literal.append(literal)

    def cut(self, length: int) -> None:
        del self.text[length:], self.gap[length:], self.literal[length:]

    def joined(self) -> bytes:
        return b"".join(part for pair in zip(self.gap, self.text, strict=True) for part in pair)


def _comment_end(text: bytes, at: int) -> int:
    """Return where the comment that begins at ``at`` ends, -1 where it does not; comments nest."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge[0] == b"/*" else -1
        if depth == 0:
            return edge.end()
    return -1


def _tokens(text: bytes) -> _Tokens:
    found = _Tokens()
    gap, at, length = b"", 0, len(text)
    match = _TOKEN.match
    while at < length:
        token = match(text, at)
        assert token is not None  # the last alternative takes any character
        at = token.end()
        kind = token.lastgroup
        piece = token[0]
        if at == length and any(token[name] is not None for name in _OPEN):
            found.torn = True
        if kind == "space" or kind == "comment":
            if piece == b"/*":
                at = _comment_end(text, token.start())
                if at < 0:
                    at, found.torn = length, True
            gap = b"\n" if gap == b"\n" or kind == "comment" or b"\n" in piece else b" "
            continue
        if kind == "string" and piece[0] not in b"eE$" and b"\\'" in piece:
            found.doubtful = True
        if kind in _PLACEHOLDERS:
            if kind == "string" and gap == b"\n" and found.text and found.text[-1] == b"''":
                gap = b""  # adjacent strings on two lines are one
                continue
            found.add(_PLACEHOLDERS[kind], gap, True)
        else:
            found.add(piece.lower() if kind == "word" else piece, gap, False)
        gap = b""
    _hide_setting(found)
    while found.text and found.text[-1] == b";":
        found.cut(len(found.text) - 1)
    return found


def _hide_setting(tokens: _Tokens) -> None:
    """Put a placeholder for the value of ``SET name TO value``, which may be a bare word."""
    text = tokens.text
    if not text or text[0] not in (b"set", b"alter") or b"set" not in text:
        return
    begin = text.index(b"set") + 1
    if text[0] == b"alter" and b"table" in text[:begin]:
        return
    for at in range(begin, min(begin + 8, len(text) - 1)):
        if text[at] in (b"=", b"to"):
            if text[at + 1] != b"default":
                tokens.cut(at + 1)
                tokens.add(b"''", b" ", True)
            return


# ---------------------------------------------------------------------------------------------------------------------
# Fingerprints
# ---------------------------------------------------------------------------------------------------------------------

_BEFORE_RELATION = frozenset(b"from join into update table only truncate copy vacuum analyze view".split())
_DEFINING = frozenset(b"create alter drop grant revoke comment".split())
_GENERATED = re.compile(rb"\d{4,}(?:_\d+)*")


def _relations(text: list[bytes]) -> Iterator[bytes]:
    """Yield the relations named with their schema, or by a number libpg_query drops, as ``schema.table``."""
    at, length = 0, len(text)
    before = _BEFORE_RELATION | {b"on"} if text and text[0] in _DEFINING else _BEFORE_RELATION
    while at < length:
        if text[at] not in before or (at and text[at - 1] == b"distinct"):
            at += 1
            continue
        at += 1
        while at < length and text[at] != b"(":
            if text[at] in (b"only", b"if", b"not", b"exists"):
                at += 1
                continue
            name = [text[at]]
            while at + 2 < length and text[at + 1] == b".":
                at += 2
                name.append(text[at])
            whole = _GENERATED.sub(b"", b".".join(name))
            if len(name) > 1 or any(48 <= byte < 58 for byte in whole):
                yield whole
            at += 1
            if at < length and text[at] == b"as":
                at += 1
            if at + 1 < length and text[at + 1] == b",":
                at += 1
            if at < length and text[at] == b",":
                at += 1
                continue
            break


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()


def _fingerprint(tokens: _Tokens) -> tuple[str, bool]:
    """Return the fingerprint, and whether it is libpg_query's or that of the bare tokens."""
    from postgast import PgQueryError, fingerprint

    words = tokens.text
    text = tokens.joined()
    parsed = ""
    if len(text) <= _LONGEST_PARSED and b"\0" not in text and not tokens.torn:
        with contextlib.suppress(PgQueryError):
            parsed = fingerprint(_decoded(text)).hex
    if not parsed:
        shown = (b"?" if literal else word for word, literal in zip(words, tokens.literal, strict=True))
        return _digest(b"tokens", *shown), False
    names = sorted(set(_relations(words)))
    if words and words[0] == b"execute":
        names += (re.sub(rb"\d+", b"", word) for word in words[1:2])  # its name is all there is to know it by
    return _digest(parsed.encode(), *names) if names else parsed, True


def _group(tokens: _Tokens, fingerprint: str, parsed: bool) -> Group:
    words = tokens.text
    if not parsed or tokens.doubtful:
        words = [_skeleton(word) for word in words]
    query = _display(words)
    return Group(fingerprint, _cut(query if parsed else f"(not parsed) {query}"), parsed)


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def fingerprint_of(text: str) -> Group:
    """
    Return the group of one statement.

    >>> fingerprint_of("SELECT * FROM orders WHERE id = 7 -- mine").query
    'select * from orders where id = ?'
    """
    tokens = _tokens(text.encode())
    return _group(tokens, *_fingerprint(tokens))


# ---------------------------------------------------------------------------------------------------------------------
# Display
# ---------------------------------------------------------------------------------------------------------------------

_KEYWORDS = frozenset(
    b"""all alter analyze and any array as asc asymmetric begin between both by case cast check collate column commit
    constraint copy create cross current_date current_timestamp cursor database declare default deferrable delete desc
    distinct do drop else end except execute exists explain extract false fetch filter first for foreign from full
    function grant group having if ilike in index inner insert intersect interval into is isnull join key last lateral
    leading left like limit lock materialized natural not notnull null nulls of offset on only or order outer over
    overlaps partition position prepare primary procedure recursive references refresh release returning revoke right
    role rollback row rows savepoint schema select sequence session set similar some start symmetric table tablesample
    then to trailing transaction trigger true truncate type union unique update user using vacuum values verbose view
    when where window with""".split()
)
_TIGHT_BEFORE = frozenset((b",", b";", b")", b"]", b".", b"::", b":"))
_TIGHT_AFTER = frozenset((b"(", b"[", b".", b"::"))
_OPERATOR = frozenset(b"+-*/<>=~!@#%^&|`?")


def _skeleton(word: bytes) -> bytes:
    """Return a keyword, a placeholder or a sign as it is, anything else as an underscore."""
    plain = word in _KEYWORDS or not (word[0] in b'"_' or 65 <= word[0] <= 122 or word[0] >= 128)
    return word if plain or word == b"b''" else b"_"


def _display(words: list[bytes]) -> str:
    """Return tokens in one layout, whatever theirs was, ``?`` for each literal."""
    shown: list[bytes] = []
    before = b""
    for word in words:
        literal = word in (b"''", b"b''", b"$1", b"1")
        if word == b":" and before == b":":
            shown[-1] = before = b"::"
            continue
        operators = len(word) == 1 and word[0] in _OPERATOR and before and before[-1] in _OPERATOR and before != b"*"
        opened = word == b"(" and before and before not in _KEYWORDS and (before[-1] in b'"_' or before[-1:].isalnum())
        if shown and not (word in _TIGHT_BEFORE or before in _TIGHT_AFTER or operators or opened or word == b"["):
            shown.append(b" ")
        shown.append(b"?" if literal else _GENERATED.sub(b"?", word))
        before = word
        if len(shown) > 2 * LABEL_LENGTH:
            break
    return _decoded(b"".join(shown))


def _cut(query: str) -> str:
    query = "".join(letter if letter.isprintable() else " " for letter in query)
    return query if len(query) <= LABEL_LENGTH else query[: LABEL_LENGTH - 1] + "…"


# ---------------------------------------------------------------------------------------------------------------------
# Many statements
# ---------------------------------------------------------------------------------------------------------------------


class Grouper:
    """
    Gives each statement the number of its group; remembers as much as is worth it, never more than a bound.

    Attributes:
        groups: By number. Numbers hold until ``forget``.
    """

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._numbers: dict[str, int] = {}
        self._by_tokens: dict[bytes, int] = {}
        self._by_shape: dict[tuple[bytes | None, ...], int] = {}
        self.texts = _Texts(self, doubled_quotes=False)
        self.csv_texts = _Texts(self, doubled_quotes=True)

    @property
    def is_full(self) -> bool:
        """Whether it holds more groups than it should; then is a good time to ``forget``."""
        return len(self.groups) > _MOST_GROUPS

    def forget(self) -> None:
        """Forget every group and its number."""
        for one in (self.groups, self._numbers, self._by_tokens, self._by_shape, self.texts, self.csv_texts):
            one.clear()

    def adopt(self, group: Group) -> int:
        """Return the number of a group known from elsewhere."""
        number = self._numbers.setdefault(group.fingerprint, len(self.groups))
        if number == len(self.groups):
            self.groups.append(group)
        return number

    def number(self, text: bytes) -> int:
        """Return the number of a statement's group."""
        if not _is_simple(text):
            return self._of_tokens(_tokens(text))
        shape = tuple(_SHAPE.split(text))
        number = self._by_shape.get(shape)
        if number is None:
            number = self._of_tokens(_tokens(_without_literals(shape)))
            if len(text) <= _LONGEST_KEPT:
                if len(self._by_shape) >= _MOST_TEXTS:
                    self._by_shape.clear()
                self._by_shape[shape] = number
        return number

    def _of_tokens(self, tokens: _Tokens) -> int:
        # Two doubts of one text are shown alike, whatever made it doubtful.
        key = b" ".join([*tokens.text, b"\\" * (tokens.doubtful + 2 * tokens.torn)])
        number = self._by_tokens.get(key)
        if number is None:
            fingerprint, parsed = _fingerprint(tokens)
            known = self._numbers.get(fingerprint)
            number = self.adopt(_group(tokens, fingerprint, parsed)) if known is None else known
            if len(key) <= _LONGEST_KEPT:
                if len(self._by_tokens) >= _MOST_TEXTS:
                    self._by_tokens.clear()
                self._by_tokens[key] = number
        return number


class _Texts(dict[bytes, int]):
    """From the exact bytes of a statement, as a log has them, to the number of its group."""

    def __init__(self, grouper: Grouper, *, doubled_quotes: bool) -> None:
        super().__init__()
        self._grouper = grouper
        self._doubled = doubled_quotes

    def __missing__(self, raw: bytes) -> int:
        doubled = self._doubled and b'""' in raw
        number = self._grouper.number(raw.replace(b'""', b'"') if doubled else raw)
        if len(raw) <= _LONGEST_KEPT:
            if len(self) >= _MOST_TEXTS:
                self.clear()
            self[raw] = number
        return number
