"""The audit log as the admin page draws it."""

from datetime import UTC, datetime

from alignment.audit import Actor, AuditLine
from alignment.web.admin.audit_view import OPEN, draw_audit

AT = datetime(2026, 11, 28, 1, 2, 3, tzinfo=UTC)
ADA = Actor("ada", "hub-1")


def test_a_line_says_when_who_what_on_what_and_how_it_ended() -> None:
    drawn = draw_audit([AuditLine(AT, ADA, "publish", ("dpo-1", "ada/polite"), "refused")])
    assert (
        '<li><time datetime="2026-11-28T01:02:03Z">28 Nov 2026 01:02:03</time>'
        "<span><b>ada</b>: publish <code>dpo-1</code>, <code>ada/polite</code></span>"
        '<span class="vta-unsaid">refused</span></li>'
    ) in drawn


def test_an_action_without_an_end_is_told_from_one_that_is_done() -> None:
    drawn = draw_audit([AuditLine(AT, ADA, "train"), AuditLine(AT, ADA, "export", (), "done")])
    assert drawn.count("under way, or cut off") == 1
    assert drawn.count("<span>done</span>") == 1


def test_older_lines_fold_and_an_empty_log_says_so() -> None:
    lines = [AuditLine(AT, ADA, f"act {number}", (), "done") for number in range(OPEN + 1)]
    assert "<details>" not in draw_audit(lines[:OPEN])
    assert "<summary>1 earlier one</summary>" in draw_audit(lines)
    assert draw_audit(lines).count("<li>") == OPEN + 1
    assert "Nothing yet" in draw_audit([])


def test_what_comes_from_outside_is_inert() -> None:
    line = AuditLine(AT, Actor("<b>\u202e"), "<i>", ("<img>",), "done")
    drawn = draw_audit([line])
    assert "<b>&lt;b&gt;" in drawn
    assert "<img" not in drawn
    assert "<i>" not in drawn
    assert "U+202E" in drawn
