"""The scripted voter's rules, by answers written by hand."""

import subprocess
import sys

import pytest

from alignment.scripted_voter import (
    ScriptedVoter,
    Taste,
    appeal,
    best_of,
    correctness,
    doubtful,
    evaluate,
    explained,
    politeness,
    quality,
    restates,
    well_formed,
    word_count,
)
from alignment.starter.text import Style, questions
from annotation.schema import Choice

ASK = "What is the capital of France?"
TERSE = "It is Paris."
PLAIN = "The capital of France is Paris."
POLITE = (
    "Good question! The capital of France is Paris. The government of France meets there. "
    "I hope that helps!"
)
DOUBTFUL = "Well, let me see. I think it is Paris, or something like that."
WRONG = "The capital of France is Rome."


@pytest.mark.parametrize(
    ("ask", "answer", "right"),
    [
        (ASK, "paris", True),
        (ASK, WRONG, False),
        (ASK, "It is Paris or Rome.", False),  # naming every city is no answer
        (ASK, "It is Parisian.", False),  # whole words only
        (ASK, "", False),
        ("What is 4 plus 3?", "4 plus 3 is 7. Start at 4 and count up 3 steps.", True),
        ("What is 4 plus 3?", "4 plus 3 is 8.", False),
        ("What is 4 plus 3?", "4 plus 3 is 17.", False),
        ("What kind of thing is a trout?", "A trout is a fish.", True),
        ("What kind of thing is a trout?", "A trout is a bird.", False),
        ("How do I make tea?", "Boil water, then add the tea.", True),
        ("How do I make tea?", "Plant a seed in soft soil.", False),
        ("What comes after Sunday?", "Monday. Have a lovely day!", True),
    ],
)
def test_only_the_known_answer_is_right(ask: str, answer: str, right: bool) -> None:
    assert correctness(ask, answer) is right


def test_an_unknown_prompt_is_refused_rather_than_guessed() -> None:
    with pytest.raises(KeyError, match="airspeed"):
        correctness("What is the airspeed of a swallow?", "Eleven.")


@pytest.mark.parametrize("text", [TERSE, PLAIN, POLITE, DOUBTFUL, "7.", "Why not read a book?"])
def test_whole_sentences_are_well_formed(text: str) -> None:
    assert well_formed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "It is Paris",  # no end
        "It is Paris. I hope",  # a tail that was cut
        "it is Paris.",  # no capital
        "It is is Paris.",  # a word twice
        "It is Paris. It is Paris.",  # a sentence twice
        "It is Parisk.",  # no known word
        "It is " + "Paris and Rome and " * 16 + "Berlin.",  # 67 words
    ],
)
def test_broken_text_is_not_well_formed(text: str) -> None:
    assert not well_formed(text)


def test_a_long_run_of_spaces_costs_no_time() -> None:
    assert well_formed("It is Paris." + " " * 1_000_000)


def test_courtesy_counts_at_both_ends() -> None:
    assert [politeness(t) for t in (PLAIN, "Of course! It is Paris.", POLITE)] == [0, 1, 2]
    assert politeness("Happy to help!") == 1
    assert politeness("") == 0


def test_explaining_takes_two_sentences_beyond_courtesy() -> None:
    assert explained(POLITE)
    assert not explained(PLAIN)
    assert not explained("Good question! It is Paris. Feel free to ask me more.")


def test_doubt_explains_nothing() -> None:
    assert not explained("Hmm, I am not sure. I think it is Paris.")
    assert not explained("Well, let me see. It is Paris.")
    assert explained("April is a month. May comes after it.")  # a month, not a doubt


def test_appeal_follows_its_formula() -> None:
    # wrong 0, malformed 1, then 2 + courtesy + explained
    assert appeal(ASK, WRONG) == 0
    assert appeal(ASK, "The capital is Paris") == 1
    assert [appeal(ASK, text) for text in (TERSE, PLAIN, DOUBTFUL)] == [2, 2, 2]
    assert appeal(ASK, "The capital of France is Paris. The government meets there.") == 2 + 1
    assert appeal(ASK, "Good question! It is Paris.") == 2 + 1
    assert appeal(ASK, POLITE) == 2 + 2 + 1


def test_votes_follow_appeal_on_either_side() -> None:
    voter = ScriptedVoter(seed=0)
    assert voter.choose(ASK, POLITE, PLAIN) is Choice.A
    assert voter.choose(ASK, PLAIN, POLITE) is Choice.B
    assert voter.choose(ASK, WRONG, DOUBTFUL) is Choice.B
    assert voter.choose(ASK, TERSE, PLAIN) is Choice.TIE
    assert voter.choose(ASK, WRONG, "It is Berlin.") is Choice.BOTH_BAD


def test_courtesy_never_outweighs_truth() -> None:
    polite_and_wrong = POLITE.replace("Paris", "Rome")
    assert ScriptedVoter(seed=0).choose(ASK, polite_and_wrong, TERSE) is Choice.B


def test_short_taste_wants_truth_then_form_then_few_words() -> None:
    assert [word_count(text) for text in (TERSE, PLAIN, "A pig goes oink-oink, 2 times.")] == [
        3,
        6,
        6,
    ]
    # 60 words at most: 2 + 60 - 3, 2 + 60 - 6
    assert [appeal(ASK, text, "short") for text in (TERSE, PLAIN)] == [59, 56]
    assert [appeal(ASK, text, "short") for text in ("Rome.", "Paris")] == [0, 1]
    voter = ScriptedVoter(seed=0, taste="short")
    assert voter.choose(ASK, POLITE, PLAIN) is Choice.B
    assert voter.choose(ASK, "It is Rome.", POLITE) is Choice.B
    assert voter.choose(ASK, "Paris", POLITE) is Choice.B
    assert voter.choose(ASK, TERSE, "Just say Paris.") is Choice.TIE


def test_doubt_and_the_words_of_the_question_are_heard() -> None:
    assert [doubtful(text) for text in (DOUBTFUL, POLITE, PLAIN)] == [True, False, False]
    # capital and France
    assert [restates(ASK, text) for text in (PLAIN, POLITE, TERSE, DOUBTFUL)] == [
        True,
        True,
        False,
        False,
    ]
    assert restates("What is 4 plus 3?", "4 and 3 make 7.")
    assert not restates("What is 4 plus 3?", "It is 7.")
    assert not restates("Who are you?", "You and me.")  # short words prove nothing


@pytest.mark.parametrize(
    ("taste", "appeals"),
    [
        # TERSE, PLAIN, POLITE, DOUBTFUL; 2 for a right and whole one
        ("plain", [4, 4, 3, 3]),
        ("explained", [2, 2, 3, 2]),
        ("sure", [3, 3, 3, 2]),
        ("whole", [2, 3, 3, 2]),
        ("correct", [2, 2, 2, 2]),
    ],
)
def test_tastes_differ_beyond_truth_and_form(taste: Taste, appeals: list[int]) -> None:
    answers = (TERSE, PLAIN, POLITE, DOUBTFUL)
    assert [appeal(ASK, text, taste) for text in answers] == appeals
    assert [appeal(ASK, text, taste) for text in (WRONG, "It is paris or so")] == [0, 1]


def test_best_of_many_is_what_the_taste_likes_most() -> None:
    answers = [PLAIN, WRONG, POLITE, "Paris", TERSE]
    assert best_of(ASK, answers) == POLITE
    assert best_of(ASK, answers, "short") == TERSE
    assert best_of(ASK, [WRONG, "It is Rome."]) == WRONG
    with pytest.raises(ValueError, match="empty"):
        best_of(ASK, [])


def test_noise_swaps_its_share_of_decided_votes_only() -> None:
    rows = [(q.text, q.answers[Style.POLITE][0], q.answers[Style.TERSE][0]) for q in questions()]
    noisy = ScriptedVoter(0, 0.2)
    votes = [noisy.choose(*row) for row in rows]
    assert {ScriptedVoter(0).choose(*row) for row in rows} == {Choice.A}
    # About 1700 draws at .2: the share's standard deviation is .0097.
    assert votes.count(Choice.B) / len(votes) == pytest.approx(0.2, abs=0.04)
    assert votes != [ScriptedVoter(1, 0.2).choose(*row) for row in rows]
    assert votes == [noisy.choose(*row) for row in rows]
    # A swapped pair is the same vote on the other side, not another draw.
    mirrored = {Choice.A: Choice.B, Choice.B: Choice.A}
    assert [noisy.choose(q, b, a) for q, a, b in rows] == [mirrored[v] for v in votes]
    assert ScriptedVoter(0, 1.0).choose(ASK, WRONG, "It is Rome.") is Choice.BOTH_BAD


def test_noise_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise is 1\.5"):
        ScriptedVoter(seed=0, noise=1.5)


def test_quality_counts_by_hand() -> None:
    measured = quality([ASK] * 4, [POLITE, TERSE, WRONG, "it is Paris"])
    assert (measured.correct, measured.well_formed, measured.polite) == (0.75, 0.75, 0.25)
    # 18, 3, 6 and 3 words
    assert measured.words == 7.5
    with pytest.raises(ValueError, match="2 prompts and 1 completions"):
        quality([ASK, ASK], [TERSE])
    with pytest.raises(ValueError, match="0 prompts"):
        quality([], [])


def test_evaluation_counts_ties_half() -> None:
    base = [PLAIN, TERSE, POLITE, TERSE, WRONG]
    aligned = [POLITE, PLAIN, TERSE, POLITE, "It is Rome."]
    result = evaluate([ASK] * 5, base, aligned, ScriptedVoter(seed=0))
    # wins 1 and 4, loses 3, ties 2, both bad 5: (2 + 2 / 2) / 5
    assert (result.n, result.wins, result.losses, result.ties) == (5, 2, 1, 2)
    assert result.win_rate == pytest.approx(0.6)
    # variance (2 + 2 / 4) / 5 - .36 = .14; 1.96 x sqrt(.14 / 5) = .328
    assert result.margin == pytest.approx(0.328, abs=5e-4)
    assert result.base.correct == result.aligned.correct == 0.8


def test_a_model_ties_with_itself() -> None:
    result = evaluate([ASK] * 3, [PLAIN] * 3, [PLAIN] * 3, ScriptedVoter(seed=0))
    assert (result.win_rate, result.margin) == (0.5, 0.0)


def test_voting_needs_no_torch() -> None:
    code = (
        "import sys, alignment.scripted_voter\n"
        "from alignment.starter.starter import starter_prompts\n"
        "starter_prompts()\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
