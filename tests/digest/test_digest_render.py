"""Text, HTML and mail of a stored digest: byte for byte, without foreign resources, safe against hostile titles."""

from __future__ import annotations

import base64
import dataclasses
import email
import email.policy
import json
import re
import subprocess
import sys
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

import pytest
from digest_samples import FULL, PICTURE, QUIET, candidate, told
from hypothesis import given
from hypothesis import strategies as st

from harvester.charts import to_png
from harvester.digest import render
from harvester.digest.model import Digest
from harvester.errors import DeliveryError

GOLDEN = Path(__file__).parent.parent / "golden"
SENDER, ME, YOU = "harvester@example.com", "me@example.com", "you@example.org"

HOSTILE = 'Fix\x1b]0;owned\x07 <img src=x onerror=alert(1)>\r\nBcc: all@example.com\r\n\r\n<script>\u202egnp.exe\u2066 & "more"'


def same_as_golden(name: str, content: str) -> None:
    """Compare byte for byte; what differs is left beside the old for a person to look at."""
    path = GOLDEN / name
    aside = path.with_name(f"{path.name}.new")
    old = path.read_bytes() if path.exists() else b""
    if old != content.encode():
        aside.write_bytes(content.encode())
        pytest.fail(f"{path} is not what is rendered now; the new text is in {aside}")
    aside.unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "digest"), [("full", FULL), ("quiet", QUIET)])
def test_text_and_html_are_what_they_were(name: str, digest: Digest) -> None:
    same_as_golden(f"digest_{name}.txt", render.text(digest))
    same_as_golden(f"digest_{name}.html", render.html(digest, "data"))


@pytest.mark.parametrize("digest", [FULL, QUIET])
def test_a_digest_comes_back_from_the_store_as_it_was(digest: Digest) -> None:
    assert Digest.from_json(json.loads(json.dumps(digest.as_json()))) == digest


# -- text -------------------------------------------------------------------------------------------------------------


def test_text_has_72_columns_but_for_commands_which_stand_alone() -> None:
    lines = render.text(FULL).splitlines()
    assert [line for line in lines if len(line) > 72 and not line.startswith("     harvest ")] == []
    assert "     harvest candidates accept checkout-index:checkout:request_latency:p95" in lines


def test_text_is_complete_by_itself() -> None:
    text = " ".join(render.text(FULL).split())
    for one in FULL.candidates:
        assert one.candidate.sentence in text
        assert one.interval in text
        assert one.caveat in text
        assert one.command in text
    for entry in (*FULL.accepted, *FULL.unclear, *FULL.unchanged, *FULL.silent):
        assert entry.text in text
    assert FULL.summary in text
    assert "Of these 2 claims, fewer than 1 is expected to be false by chance." in text


def test_a_week_with_nothing_says_so_in_two_lines_and_that_everything_was_watched() -> None:
    assert render.text(QUIET).splitlines()[:3] == [
        "Nothing to tell this week.",
        "Everything was watched since Monday 16 November, 08:00: 14 series of 2",
        "sources, each proven complete for at least 99.9 % of the time.",
    ]


def test_empty_sections_vanish() -> None:
    for shown in (render.text(QUIET), render.html(QUIET, "data")):
        for title in ("Accepted earlier", "Still unclear", "No difference", "No data", "claim", "wait"):
            assert title not in shown


# -- html -------------------------------------------------------------------------------------------------------------

URLS = re.compile(r"(?:https?:)?//[^\s\"'<>)]+", re.IGNORECASE)


class _Markup(HTMLParser):
    """Every element with its attributes, and whether they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(document: str) -> _Markup:
    markup = _Markup()
    markup.feed(document)
    markup.close()
    assert markup.open == []
    return markup


@pytest.mark.parametrize("digest", [FULL, QUIET])
@pytest.mark.parametrize("images", ["cid", "data"])
def test_html_needs_nothing_from_outside(digest: Digest, images: str) -> None:
    markup = parsed(render.html(digest, images))  # type: ignore[arg-type]
    assert {tag for tag, _ in markup.elements} & {"script", "link", "iframe", "object", "form", "a", "base"} == set()
    for tag, attributes in markup.elements:
        for name, value in attributes.items():
            assert name == "src" or not URLS.search(value), f"{tag} {name}={value}"
            assert not name.startswith("on")
            if name == "src":
                assert value.startswith("cid:" if images == "cid" else "data:image/svg+xml;base64,")
    assert "@import" not in render.html(digest, "data")
    assert "url(" not in render.html(digest, "data")


def test_every_picture_says_its_numbers_and_fits_600_pixels() -> None:
    markup = parsed(render.html(FULL, "data"))
    pictures = [attributes for tag, attributes in markup.elements if tag == "img"]
    assert [one["alt"] for one in pictures] == [one.alt for one in FULL.candidates if one.picture]
    assert all("480 ms" in one["alt"] and "310 ms" in one["alt"] for one in pictures)
    assert all("max-width: 566px" in one["style"] and "width: 100%" in one["style"] for one in pictures)
    page = next(attributes for tag, attributes in markup.elements if attributes.get("class") == "page")
    assert "max-width: 600px" in page["style"]


def test_a_picture_of_any_size_is_in_the_page_whole() -> None:
    large = PICTURE.replace("<line", "<!-- " + "long " * 5000 + "--><line")
    document = render.html(dataclasses.replace(FULL, candidates=(told(picture=large),)), "data")
    (source,) = [attributes["src"] for tag, attributes in parsed(document).elements if tag == "img"]
    assert base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() == large


def test_the_style_is_in_the_elements_and_only_the_dark_rules_stay_apart() -> None:
    document = render.html(FULL, "cid")
    (apart,) = re.findall(r"<style>(.*?)</style>", document, re.DOTALL)
    assert apart.strip().startswith("@media (prefers-color-scheme: dark)")
    visible = [
        (tag, attributes) for tag, attributes in parsed(document).elements if tag in ("p", "h1", "h2", "td", "img", "body")
    ]
    assert all(attributes.get("style") for tag, attributes in visible if attributes.get("class"))


def test_text_and_html_say_the_same() -> None:
    shown = " ".join(parsed(render.html(FULL, "data")).text.split())
    for one in FULL.candidates:
        for said in (one.candidate.sentence, one.interval, one.caveat, one.command):
            assert said in shown
    for entry in (*FULL.accepted, *FULL.unclear, *FULL.unchanged, *FULL.silent):
        assert entry.text in shown


# -- what comes from outside ------------------------------------------------------------------------------------------


def hostile() -> Digest:
    one = told(candidate(sentence=HOSTILE), caveat=HOSTILE, alt=HOSTILE, picture="")
    silent = dataclasses.replace(FULL.silent[0], name=HOSTILE, text=HOSTILE)
    unclear = dataclasses.replace(FULL.unclear[0], change=HOSTILE, text=HOSTILE)
    return dataclasses.replace(
        FULL, subject=HOSTILE, summary=HOSTILE, candidates=(one,), silent=(silent,), unclear=(unclear,)
    )


def test_hostile_titles_control_neither_terminal_nor_browser() -> None:
    text, document = render.text(hostile()), render.html(hostile(), "data")
    for shown in (text, document):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert {tag for tag, _ in parsed(document).elements} & {"script", "img"} == set()
    assert "\nBcc:" not in text


def test_hostile_titles_add_no_header_and_no_recipient() -> None:
    mail = email.message_from_bytes(
        render.message(hostile(), SENDER, [ME]).as_bytes(), policy=email.policy.default
    )
    assert isinstance(mail, EmailMessage)
    assert mail["Bcc"] is None
    assert mail["To"] == ME
    assert mail["Subject"].startswith("Fix <img src=x onerror=alert(1)> Bcc: all@example.com")
    assert set(mail.keys()) == {
        "Subject", "From", "To", "Date", "Message-ID", "List-Id", "Auto-Submitted", "MIME-Version", "Content-Type",
    }


@given(st.text(alphabet=st.characters(), max_size=200))
def test_whatever_a_title_holds_the_mail_stays_one_mail(title: str) -> None:
    digest = dataclasses.replace(QUIET, subject=title, summary=title)
    content = render.message(digest, SENDER, [ME]).as_bytes()
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert not mail.defects
    assert str(mail["To"]) == ME
    assert mail["Message-ID"].startswith("<2026-W48.")
    content.decode("ascii")


@pytest.mark.parametrize(
    "wrong", ["<a>,b@example.com", "a\r\nBcc: c@example.com", "@example.com", "a@", "ü@example.com", "a@b@c", "a@-..-"]
)
def test_what_is_no_address_is_refused_with_a_sentence(wrong: str) -> None:
    for addresses in ((wrong, [ME]), (SENDER, [ME, wrong])):
        with pytest.raises(DeliveryError, match="is not an address a mail can be sent to"):
            render.message(QUIET, *addresses)


def test_a_domain_beyond_ascii_is_written_as_servers_know_it() -> None:
    assert render.message(QUIET, SENDER, ["me@bücher.example"])["To"] == "me@xn--bcher-kva.example"


# -- the mail ---------------------------------------------------------------------------------------------------------


def parts_of(mail: EmailMessage) -> list[str]:
    return [part.get_content_type() for part in mail.walk()]


def test_a_mail_is_text_or_html_with_its_pictures() -> None:
    mail = email.message_from_bytes(render.message(FULL, SENDER, [ME, YOU]).as_bytes(), policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert parts_of(mail) == [
        "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
    ]
    text, page, picture = (part for part in mail.walk() if not part.is_multipart())
    assert text.get_content().replace("\r\n", "\n") == render.text(FULL)
    assert picture.get_content() == to_png(PICTURE, 1132)
    assert picture.get_content_disposition() == "inline"
    (reference,) = re.findall(r'src="cid:([^"]+)"', page.get_content())
    assert picture["Content-ID"] == f"<{reference}>"


def test_a_mail_without_pictures_is_text_or_html() -> None:
    mail = email.message_from_bytes(render.message(QUIET, SENDER, [ME]).as_bytes(), policy=email.policy.default)
    assert parts_of(mail) == ["multipart/alternative", "text/plain", "text/html"]  # type: ignore[arg-type]
    assert mail["List-Id"] == "harvester digest <harvester-digest.example.com>"
    assert mail["From"] == "harvester <harvester@example.com>"
    assert mail["Date"] == "Mon, 23 Nov 2026 07:00:00 +0000"
    assert mail["Auto-Submitted"] == "auto-generated"


def test_the_same_digest_for_the_same_people_is_the_same_mail_byte_for_byte() -> None:
    first, second = (render.message(QUIET, SENDER, [ME, YOU]).as_bytes() for _ in range(2))
    assert first == second


def test_the_message_id_tells_weeks_and_recipients_apart_but_not_their_order() -> None:
    def identity(digest: Digest, *recipients: str) -> str:
        return str(render.message(digest, SENDER, recipients)["Message-ID"])

    later = dataclasses.replace(QUIET, week="2026-W49")
    assert identity(QUIET, ME, YOU) == identity(QUIET, YOU, ME)
    assert len({identity(QUIET, ME), identity(QUIET, YOU), identity(QUIET, ME, YOU), identity(later, ME)}) == 4
    assert re.fullmatch(r"<2026-W48\.[0-9a-f]{16}@example\.com>", identity(QUIET, ME))


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_preview_is_two_whole_files_and_nothing_else(tmp_path: Path) -> None:
    mail, page = render.preview(QUIET, tmp_path / "new" / "folder")
    assert (mail.name, page.name) == ("harvester-2026-W48.eml", "harvester-2026-W48.html")
    assert page.read_text() == render.html(QUIET, "data")
    assert email.message_from_bytes(mail.read_bytes())["Subject"] == QUIET.subject
    assert sorted(page.parent.iterdir()) == sorted([mail, page])


def test_a_preview_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, page = render.preview(QUIET, tmp_path)
    old = page.read_text()
    monkeypatch.setattr("os.fsync", _full_disk)
    with pytest.raises(DeliveryError, match="No space left"):
        render.preview(dataclasses.replace(QUIET, summary="Another."), tmp_path)
    assert page.read_text() == old
    assert len(list(tmp_path.iterdir())) == 2


def _full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_preview_into_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DeliveryError, match="is the folder yours"):
        render.preview(QUIET, tmp_path / "taken")


def test_asking_whether_a_mail_is_due_loads_neither_mail_nor_pictures() -> None:
    code = "import sys, harvester.digest.send; print(*{'smtplib', 'jinja2', 'css_inline', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
