"""What the Compare tab shows, as HTML: answers side by side, their figures, what differs.

Pure. Answers are text that does nothing: escaped, with characters that hide made visible. Words
that only one side has are marked always; the page's style shows the marks where they are wanted.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

from alignment.web.markup import count_of, safe_text
from annotation.asking import Answer

MOST_WORDS = 3000
"""Of one answer; longer ones are not compared word by word."""
ALIKE = "Both answers are the same, word for word."
# A word or one other sign, and the white space behind; scripts without spaces go sign by sign.
_WORDS = re.compile(
    r"(?:[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s])\s*|\s+"
)


def draw_answers(
    titles: Sequence[str],
    answers: Sequence[Answer],
    *,
    figures: bool = True,
    stopped: bool = False,
) -> str:
    """One column for each answer under its title; `figures` are lengths and speed.

    `stopped`: they grow no more, whole or not.
    """
    texts = [answer.text for answer in answers]
    is_whole = all(answer.finish for answer in answers)
    said = mark_differences(*texts) if is_whole and len(texts) == 2 else map(safe_text, texts)
    columns = [
        _column(title, words, answer, figures=figures, grows=not (stopped or answer.finish))
        for title, words, answer in zip(titles, said, answers, strict=True)
    ]
    alike = len(texts) == 2 and is_whole and texts[0] == texts[1]
    note = f'<p class="vta-note vta-alike">{ALIKE}</p>' if alike else ""
    return f'<div class="vta-answers">{"".join(columns)}</div>{note}'


def mark_differences(first: str, second: str) -> tuple[str, str]:
    """Both as HTML, with what only one has in a <mark>. Words are compared, not letters."""
    one, other = _WORDS.findall(first), _WORDS.findall(second)
    if max(len(one), len(other)) > MOST_WORDS:
        return safe_text(first), safe_text(second)
    bare, bare_other = ([word.strip() for word in words] for words in (one, other))
    steps = SequenceMatcher(None, bare, bare_other, autojunk=False).get_opcodes()
    left = [_marked(one[i:j], step != "equal") for step, i, j, _, _ in steps]
    right = [_marked(other[i:j], step != "equal") for step, _, _, i, j in steps]
    return "".join(left), "".join(right)


def draw_status(text: str) -> str:
    return f'<p class="vta-note" role="status">{escape(text)}</p>' if text else ""


def _marked(words: Sequence[str], differs: bool) -> str:
    whole = "".join(words)
    text = safe_text(whole.rstrip())
    space = whole[len(whole.rstrip()) :]
    if not differs or not text:
        return text + space
    # Read out too: a mark by itself is silent in most screen readers.
    begin, end = (f'<span class="vta-heard">{said}</span>' for said in ("[only here: ", "]"))
    return f'<mark class="vta-only">{begin}{text}{end}</mark>{space}'


def _column(title: str, words: str, answer: Answer, *, figures: bool, grows: bool) -> str:
    name = safe_text(title)
    busy = ' aria-busy="true"' if grows else ""
    told = _figures(answer) if figures and answer.text else ""
    return (
        f"<section{busy}><h3>{name}</h3>"
        f'<div class="vta-said" role="region" tabindex="0" aria-label="Answer of {escape(title)}">'
        f'{words or "…"}</div><p class="vta-facts">{told}</p></section>'
    )


def _figures(answer: Answer) -> str:
    facts = [count_of(len(answer.text), "character")]
    if answer.tokens:
        facts.insert(0, count_of(answer.tokens, "token"))
    if answer.tokens_per_s is not None:
        facts.append(f"{answer.tokens_per_s:.1f} tokens a second")
    if answer.finish == "length":
        facts.append("cut at the limit")
    return "".join(f"<span>{fact}</span>" for fact in facts)
