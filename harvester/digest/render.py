"""
A digest as text, as HTML and as a mail.

Text that came from outside (titles, labels, a server's answers) is untrusted: control characters and characters that
turn the direction of writing are dropped, HTML is escaped, and no header is built from it unchecked.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from email.errors import MessageError
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harvester import figures
from harvester.candidates.model import Grade
from harvester.differ.result import Verdict
from harvester.digest.compose import by_chance
from harvester.digest.model import Digest, Told
from harvester.errors import DeliveryError

if TYPE_CHECKING:
    from email.headerregistry import Address
    from email.message import EmailMessage

WIDTH = 72
"""Columns of the text part."""

_PIXELS = 1132
"""Width of a picture in the mail: two for each of the 566 it is shown at, for fine screens."""

_LONGEST = 2000
"""Characters of one paragraph; nothing harvester writes comes near it, what a source wrote might."""

_GRADES = {
    Grade.CONFIRMED: "named beforehand and seen again",
    Grade.EXPECTED: "named beforehand",
    Grade.EXACT: "known exactly",
    Grade.EXPLORED: "found by looking",
    Grade.OBSERVED: "observed, not proven",
}


def clean(text: str) -> str:
    """Return text on one line without anything that controls a terminal, a header or the direction of writing."""
    return figures.plain(text, _LONGEST)


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------


def text(digest: Digest) -> str:
    """Return the digest as plain text of 72 columns, complete by itself; commands stand on lines of their own."""
    lines = [*_wrapped(digest.summary), *_wrapped(_second_line(digest)), *_wrapped(_when(digest))]
    for number, one in enumerate(digest.candidates, 1):
        tags = [_verdict(one), _grade(one), *(["new"] if one.new else [])]
        lines += ["", "", *_wrapped(f"{number}. {one.candidate.sentence}", hang=3)]
        lines += _wrapped(f"[{', '.join(tags)}]", indent=3)
        lines += _wrapped(one.interval, indent=3)
        lines += _wrapped(f"Caveat: {one.caveat}" if one.caveat else "", indent=3)
        lines += ["   Accept it:", f"     {clean(one.command)}"]
    for title, entries in _sections(digest):
        lines += ["", "", title, "-" * len(title)]
        for lead, entry in entries:
            lines += _wrapped(f"- {lead} {entry}" if lead else f"- {entry}", hang=2)
    foot = [line for one in _foot(digest) for line in _wrapped(one)]
    return "\n".join([*lines, "", "", *foot, ""])


def _wrapped(paragraph: str, indent: int = 0, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        clean(paragraph), WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + hang),
        break_long_words=False, break_on_hyphens=False,
    )


# ---------------------------------------------------------------------------------------------------------------------
# HTML
# ---------------------------------------------------------------------------------------------------------------------


def html(digest: Digest, images: Literal["cid", "data"]) -> str:
    """
    Return the digest as one HTML document without any external resource.

    Pictures are ``cid`` references to the parts of the mail, or stand in the document as ``data``.
    """
    from markupsafe import Markup

    def source(number: int) -> Markup:
        if images == "cid":
            return Markup(f"cid:{_picture_id(digest, number)}")  # noqa: S704  a week and a number
        svg = digest.candidates[number].picture.encode()
        return Markup(f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}")  # noqa: S704  base64 only

    document = _template().render(
        digest=digest, when=_when(digest), second=_second_line(digest), sections=list(_sections(digest)),
        foot=_foot(digest), verdict=_verdict, grade=_grade, tone=_tone, source=source,
    )
    return _inlined(document)


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harvester.digest"), autoescape=True, undefined=StrictUndefined, finalize=_finalized,
    )
    return environment.get_template("digest.html")


def _finalized(value: object) -> object:
    return clean(value) if type(value) is str else value


def _inlined(document: str) -> str:
    """Return the document with its rules as style attributes, for readers that drop them; those for the dark stay."""
    from css_inline import CSSInliner

    return str(CSSInliner(keep_at_rules=True, load_remote_stylesheets=False).inline(document))


# ---------------------------------------------------------------------------------------------------------------------
# What both say
# ---------------------------------------------------------------------------------------------------------------------


def _when(digest: Digest) -> str:
    return f"harvester, week {digest.week}: {figures.span(digest.since, digest.generated + 1, digest.zoneinfo)}"


def _quiet(digest: Digest) -> bool:
    return not (digest.candidates or digest.accepted or digest.unclear or digest.unchanged or digest.silent)


def _second_line(digest: Digest) -> str:
    return digest.watched.text if digest.watched is not None and _quiet(digest) else ""


def _sections(digest: Digest) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the title and the entries of every section that is not empty; an entry is a lead and a text."""
    if digest.accepted:
        yield "Accepted earlier", [(f"{one.state}:", one.text) for one in digest.accepted]
    if digest.unclear:
        yield "Still unclear", [(f"{one.change}:" if one.change else "", one.text) for one in digest.unclear]
    if digest.unchanged:
        yield "No difference", [(f"{one.change}:" if one.change else "", one.text) for one in digest.unchanged]
    if digest.silent:
        yield "No data", [(f"{one.name}:", one.text) for one in digest.silent]


def _foot(digest: Digest) -> list[str]:
    """Return the small print: chance, what else waits, what was watched, where to look."""
    lines = [by_chance(digest)]
    if digest.more:
        what = "candidate waits" if digest.more == 1 else "candidates wait"
        lines.append(f"{digest.more} more {what}: harvest candidates")
    if digest.watched is not None:
        lines += [] if _quiet(digest) else [digest.watched.text]
        lines.append("The same digest: harvest digest")
    return [line for line in lines if line]


def _verdict(one: Told) -> str:
    return str(one.candidate.headline.verdict)


def _grade(one: Told) -> str:
    return _GRADES[one.candidate.grade]


def _tone(one: Told) -> str:
    verdict = one.candidate.headline.verdict
    return str(verdict) if verdict in (Verdict.IMPROVED, Verdict.REGRESSED) else "plain"


# ---------------------------------------------------------------------------------------------------------------------
# Mail
# ---------------------------------------------------------------------------------------------------------------------


def message(digest: Digest, sender: str, recipients: Sequence[str], *, identity: str = "") -> EmailMessage:
    """
    Return the digest as a mail: text, or HTML with its pictures.

    The same digest for the same recipients is the same mail, byte for byte, with the same Message-ID. ``identity``
    replaces the week in it, for mails that are not the week's.

    Raises:
        DeliveryError: if an address is none.
    """
    from email.message import EmailMessage
    from email.utils import format_datetime

    from harvester.readings import to_datetime

    sent_by = address(sender, "harvester")
    sent_to = tuple(address(one) for one in recipients)
    which = hashlib.sha256("\n".join(sorted(one.addr_spec for one in sent_to)).encode()).hexdigest()[:16]
    mail = EmailMessage(policy=_policy())
    mail["Subject"] = clean(digest.subject)
    mail["From"] = sent_by
    mail["To"] = sent_to
    mail["Date"] = format_datetime(to_datetime(digest.generated))
    mail["Message-ID"] = f"<{identity or digest.week}.{which}@{sent_by.domain}>"
    mail["List-Id"] = f"harvester digest <harvester-digest.{sent_by.domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    body, page = text(digest), html(digest, "cid")
    boundary = hashlib.sha256((body + page).encode()).hexdigest()[:24]
    mail.set_content(body, cte="quoted-printable")
    mail.make_alternative(boundary=f"=_a{boundary}")
    mail.add_alternative(page, subtype="html", cte="quoted-printable")
    *_, rich = mail.iter_parts()
    for number, one in enumerate(digest.candidates):
        if one.picture:
            from harvester.charts import to_png

            if rich.get_content_maintype() != "multipart":
                rich.make_related(boundary=f"=_r{boundary}")
            rich.add_related(
                to_png(one.picture, _PIXELS), "image", "png", cid=f"<{_picture_id(digest, number)}>",
                disposition="inline", filename=f"picture-{number + 1}.png",
            )
    return mail


def address(given: str, name: str = "") -> Address:
    """
    Return an address with its domain in the form mail servers speak.

    Raises:
        DeliveryError: if it is none, or one that needs more than ASCII before the ``@``.
    """
    from email.headerregistry import Address

    try:
        local, _, domain = given.rpartition("@")
        local.encode("ascii")
        return Address(name, addr_spec=f"{local}@{domain.encode('idna').decode()}")
    except (ValueError, IndexError, MessageError) as e:  # the standard library's parser raises all three
        raise DeliveryError(
            "compose mail to", clean(given), "is not an address a mail can be sent to",
            hint="see sender and recipients in [mail]",
        ) from e


def _policy() -> Any:
    from email.policy import SMTP

    return SMTP.clone(cte_type="7bit")


def _picture_id(digest: Digest, number: int) -> str:
    return f"{digest.week}.{number + 1}@harvester"


def preview(digest: Digest, folder: Path) -> tuple[Path, Path]:
    """
    Write the digest as ``harvester-WEEK.eml`` and ``harvester-WEEK.html`` and return both paths.

    Each file appears whole or not at all.

    Raises:
        DeliveryError: if the folder cannot be written to.
    """
    name = f"harvester-{re.sub(r'[^0-9A-Za-z-]', '_', digest.week)}"
    mail = message(digest, "harvester@localhost", ["you@localhost"]).as_bytes()
    written = []
    for suffix, content in ((".eml", mail), (".html", html(digest, "data").encode())):
        path = folder / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, content)
        except OSError as e:
            cause = e.strerror or "cannot be written"
            raise DeliveryError("write", str(path), cause, hint="is the folder yours?") from e
        written.append(path)
    return written[0], written[1]


def _write(path: Path, content: bytes) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
