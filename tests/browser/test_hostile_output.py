"""Whatever a model writes asks for nothing, covers nothing, runs nothing, and can be read."""

import re

import pytest
from conftest import Watched
from hostile import KINDS
from page_parts import SIDES, answer, prompt, wait_until_settled
from playwright.sync_api import Page, expect
from vote_site import Site, build_pair

pytestmark = pytest.mark.browser

# Of what is drawn from a model's words: elements that could act, and attributes that could lead.
FORBIDDEN = """() => {
  const drawn = document.querySelectorAll('[data-vt=prompt] *, [data-vt^=answer-] *');
  const tags = new Set(['DIV','SPAN','P','UL','OL','LI','BLOCKQUOTE','CODE','PRE','STRONG','EM',
    'S','TABLE','THEAD','TBODY','TR','TH','TD','HR','BR','H3']);
  const names = new Set(['class','role','tabindex','aria-label','aria-level','title','start',
    'value']);
  return [...drawn].flatMap((node) => [
    ...(tags.has(node.tagName) ? [] : [node.tagName]),
    ...[...node.attributes].filter(({ name }) => !names.has(name)).map(({ name }) => name),
    ...[...node.classList].filter((name) => !/^(vt-|hljs-|\\w+_$)/.test(name)),
  ]);
}"""
COVERED = """() => [...document.querySelectorAll('[data-vt=buttons] button')].filter((button) => {
  const { left, top, width, height } = button.getBoundingClientRect();
  const hit = document.elementFromPoint(left + width / 2, top + height / 2);
  return !button.contains(hit);
}).map((button) => button.textContent)"""
UNSEEN = """() => [...document.querySelectorAll('[data-vt=prompt] *, [data-vt^=answer-] *')]
  .filter((node) => node.textContent && node.tagName !== 'BR')
  .filter((node) => !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    || parseFloat(getComputedStyle(node).fontSize) < 10)
  .map((node) => node.outerHTML.slice(0, 200))"""


def words_of(text: str) -> set[str]:
    """Its words, without those that hold a character that hides: the page marks these."""
    return set(re.findall(r"(?<![^\s\W])[A-Za-z]{3,}(?![^\s\W])", text))


def check_inert(page: Page, kind: str) -> None:
    assert page.evaluate(FORBIDDEN) == [], kind
    assert page.evaluate(COVERED) == [], kind
    assert page.evaluate("window.ran") is None, kind
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), kind
    assert page.title() == "Votetune", kind


def check_readable(page: Page, kind: str) -> None:
    assert page.evaluate(UNSEEN) == [], kind
    shown = max((answer(page, side).text_content() for side in SIDES), key=len)
    for where in (shown, prompt(page).text_content()):
        assert [word for word in words_of(KINDS[kind]) if word not in where] == [], kind


def test_every_kind_of_hostile_output_is_inert_and_readable(site: Site, voter: Watched) -> None:
    for number, text in enumerate(KINDS.values()):
        site.add(build_pair(number, text, "The other.", prompt=f"Question {number}:\n\n{text}"))
    page = voter.open_ready()
    # Plain until they are there: Markdown and its colours are what could let something through.
    page.wait_for_function("'markdownit' in globalThis")
    for number, kind in enumerate(KINDS):
        expect(prompt(page)).to_contain_text(f"Question {number}:")
        if kind == "fence language":
            expect(page.locator("[data-vt=pair] .hljs-tag").first).to_be_visible()
        for mode in ("Markdown", "plain"):
            check_inert(page, f"{kind}")
            check_readable(page, kind)
            if mode == "Markdown":
                page.get_by_role("button", name="Plain text").click()
        page.get_by_role("button", name="Plain text").click()
        # A real click reaches the button. Requests, console and dialogs are watched.
        page.get_by_role("button", name="Tie").click()
        wait_until_settled(page)
    assert len(site.votes()) == len(KINDS)


def test_plain_text_is_shown_letter_by_letter(site: Site, voter: Watched) -> None:
    kinds = [kind for kind, text in KINDS.items() if text.isprintable() or "```" in text]
    for number, kind in enumerate(kinds):
        site.add(build_pair(number, KINDS[kind], "The other.", prompt=f"Question {number}"))
    page = voter.open_ready()
    page.get_by_role("button", name="Plain text").click()
    for number, kind in enumerate(kinds):
        expect(prompt(page)).to_have_text(f"Question {number}")
        texts = [answer(page, side).text_content() for side in SIDES]
        assert sorted(texts) == sorted([KINDS[kind], "The other."]), kind
        page.keyboard.press("3")
        wait_until_settled(page)
    assert len(kinds) > 20


def test_a_press_on_a_drawn_link_or_image_leads_nowhere(site: Site, voter: Watched) -> None:
    site.add(build_pair(1, KINDS["links"], KINDS["image"]))
    page = voter.open_ready()
    expect(page.locator(".vt-link")).to_have_count(3)
    before = page.url
    for node in [*page.locator(".vt-link").all(), *page.locator(".vt-image").all()]:
        node.click()
        node.click(button="middle")
    assert (page.url, len(voter.context.pages)) == (before, 1)
    addresses = page.locator(".vt-link + .vt-address, .vt-link .vt-address").all_text_contents()
    assert "(javascript:window.ran=1;alert(1))" in [text.strip() for text in addresses]
