"""How each voter votes: agreement, leans, reading time, checks, and the flags that follow.

Pure: votes and pairs in, one `VoterHealth` a voter out; nothing is set aside here. The rules and
their limits are in `voter_flags`, the figures of all votes together in `quality`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from annotation.quality.flags import (
    COPIES,
    GOLD_RIGHT,
    GOLD_WEIGHT,
    MOST_NOISE,
    USUAL_NOISE,
    Evidence,
    Flag,
    flag_length,
    flag_model,
    flag_noise,
    flag_side,
    honest_rate,
    score_evidence,
)
from annotation.quality.quality import (
    FlipRate,
    Share,
    agreements,
    decided_votes_by_pair,
    estimate_flip_rate,
    lead_of_others,
    ordinary_votes,
    share_for_side_a,
    share_of,
    share_of_flags,
    went_to_longer,
)
from annotation.quality.rings import find_rings
from annotation.schema import Choice, Pair, PairKind, Vote, VoteSource

MIN_JUDGED = 10
"""Comparisons of a voter with peers, gold and own repeats without which the score says nothing."""
MIN_OVERLAPS = 20
"""Pairs with two decided votes; with fewer the usual noise is taken for granted."""
DECIDED = (Choice.A, Choice.B)

Tallies = Mapping[str, Counter[Choice]]


@dataclass(frozen=True, slots=True)
class VoterHealth:
    """One voter's figures; a share is None where there is nothing to take it of.

    `votes` are live votes on ordinary pairs, counted or not. `agreement` is with the majority of
    the others, `side_a` and `longer` are of decided votes, `one_model` is the share for the model
    `model` that the voter backs most where two models met. `reading_s` is the median reading time
    in seconds, `repeats` the share of repeated pairs decided as before, `gold` that of gold pairs
    decided rightly. `score` compares them with an honest voter and a coin, in nats, from `judged`
    comparisons. `set_aside` says why their votes are set aside now.
    """

    voter: str
    votes: int
    decided: int
    agreement: Share | None
    side_a: Share | None
    longer: Share | None
    model: str | None
    one_model: Share | None
    reading_s: float | None
    repeats: Share | None
    gold: Share | None
    score: float
    judged: int
    flags: tuple[Flag, ...]
    set_aside: str | None

    @property
    def is_flagged(self) -> bool:
        return bool(self.flags)


def assess_voters(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> tuple[VoterHealth, ...]:
    """Every voter with a live vote, flagged ones first, then by number of votes.

    Votes that don't count are judged like others and judge nobody. Leans are looked at first;
    whoever has one, or votes as one with somebody, is no peer whom others are compared with.
    """
    live = [v for v in votes if v.superseded_at is None and v.pair_id in pairs]
    by_voter: dict[str, _Ballots] = {}
    for vote in live:
        by_voter.setdefault(vote.voter, _Ballots([], [])).all.append(vote)
    ordinary = ordinary_votes(live, pairs)
    for vote in ordinary:
        by_voter[vote.voter].ordinary.append(vote)
    tallies = decided_votes_by_pair(v for v in ordinary if v.counts)
    leans = _Leans(by_voter, pairs)
    found = {name: _figures(b, pairs, tallies, leans) for name, b in by_voter.items()}
    crowd = _Crowd(by_voter, pairs, ordinary)
    # Whoever flips coins would make the others look too much alike, so they are put apart first.
    noise = _measured_noise(crowd.trusted(crowd.judged(found)))
    for name, flag in find_rings(ordinary, crowd.trusted(found), noise).items():
        found[name] = replace(found[name], flags=(*found[name].flags, flag))
    judged = crowd.judged(found).values()
    return tuple(sorted(judged, key=lambda v: (not v.flags, -v.votes, v.voter)))


def flip_rate_after_flags(
    votes: Iterable[Vote], pairs: Mapping[str, Pair], voters: Iterable[VoterHealth]
) -> FlipRate | None:
    """The flip rate of the votes that count, without those of voters flagged."""
    flagged = {voter.voter for voter in voters if voter.is_flagged}
    counting = (v for v in ordinary_votes(votes, pairs) if v.counts)
    return estimate_flip_rate(v for v in counting if v.voter not in flagged)


@dataclass(frozen=True, slots=True)
class _Ballots:
    """One voter's live votes, oldest first as given, and those of them on ordinary pairs."""

    all: list[Vote]
    ordinary: list[Vote]


@dataclass(frozen=True, slots=True)
class _Peers:
    """Whom a voter is compared with: their tallies, who they are, and how they do.

    `noise` is the chance that a vote errs, `gold` the chance that a gold pair is decided rightly.
    """

    tallies: Tallies
    voters: frozenset[str]
    noise: float
    gold: float


@dataclass(frozen=True, slots=True)
class _Crowd:
    """All voters and votes, for judging each voter by those of the others who are trusted."""

    by_voter: Mapping[str, _Ballots]
    pairs: Mapping[str, Pair]
    ordinary: Sequence[Vote]

    def trusted(self, found: Mapping[str, VoterHealth]) -> list[Vote]:
        return [v for v in self.ordinary if v.counts and not found[v.voter].flags]

    def judged(self, found: Mapping[str, VoterHealth]) -> dict[str, VoterHealth]:
        """Every voter with a score against those without a flag in `found`."""
        trusted = self.trusted(found)
        peers = _Peers(
            decided_votes_by_pair(trusted),
            frozenset(v.voter for v in trusted),
            max(USUAL_NOISE, _measured_noise(trusted)),
            _usual_gold([v.gold for v in found.values() if v.gold and not v.flags]),
        )
        return {
            name: _judged(found[name], ballots, self.pairs, peers)
            for name, ballots in self.by_voter.items()
        }


class _Leans:
    """How often a voter and all others together took the longer answer, and each model.

    Whoever follows a side says nothing of either, and would make honest tastes look strange.
    """

    def __init__(self, by_voter: Mapping[str, "_Ballots"], pairs: Mapping[str, Pair]) -> None:
        self._longer: dict[str, Counter[bool]] = {}
        self._models: dict[str, Counter[tuple[str, bool]]] = {}
        self._peers: set[str] = set()
        for name, ballots in by_voter.items():
            votes = ballots.ordinary
            lengths = (went_to_longer(vote, pairs[vote.pair_id]) for vote in votes)
            self._longer[name] = Counter(longer for longer in lengths if longer is not None)
            self._models[name] = Counter(
                choice for vote in votes for choice in _model_choices(vote, pairs[vote.pair_id])
            )
            if flag_side(share_for_side_a(votes)) is None:
                self._peers.add(name)
        self._all_longer: Counter[bool] = Counter()
        self._all_models: Counter[tuple[str, bool]] = Counter()
        for name in self._peers:
            self._all_longer.update(self._longer[name])
            self._all_models.update(self._models[name])

    def longer(self, voter: str) -> tuple[Share | None, Share | None]:
        """This voter's share of the longer answer, and all others'."""
        mine, others = self._longer[voter], Counter(self._all_longer)
        if voter in self._peers:
            others.subtract(mine)
        return share_of(mine[True], mine.total()), share_of(others[True], others.total())

    def models(self, voter: str) -> dict[str, tuple[Share, Share]]:
        """Model to this voter's share for it and all others', where both have one."""
        mine, others = self._models[voter], Counter(self._all_models)
        if voter in self._peers:
            others.subtract(mine)
        shares = {}
        for name in {name for name, _ in mine}:
            own, theirs = (
                share_of(some[name, True], some[name, True] + some[name, False])
                for some in (mine, others)
            )
            if own and theirs:
                shares[name] = (own, theirs)
        return shares


def _model_choices(vote: Vote, pair: Pair) -> Iterator[tuple[str, bool]]:
    preference = pair.resolve(vote.choice, vote.flipped)
    if preference is not None and preference.chosen.model != preference.rejected.model:
        yield preference.chosen.model.label, True
        yield preference.rejected.model.label, False


def _figures(
    ballots: _Ballots, pairs: Mapping[str, Pair], tallies: Tallies, leans: _Leans
) -> VoterHealth:
    """What one voter's votes say by themselves, with the flags of leans."""
    votes, name = ballots.ordinary, ballots.all[0].voter
    side_a = share_for_side_a(votes)
    longer, others_longer = leans.longer(name)
    models = leans.models(name)
    model = max(models, key=lambda m: (models[m][0].rate, m)) if models else None
    flags = (flag_side(side_a), flag_length(longer, others_longer), flag_model(models))
    return VoterHealth(
        voter=name,
        votes=len(votes),
        decided=side_a.total if side_a else 0,
        agreement=share_of_flags(agreements(votes, tallies)),
        side_a=side_a,
        longer=longer,
        model=model,
        one_model=models[model][0] if model else None,
        reading_s=_median_reading_s(ballots.all),
        repeats=share_of_flags(_repeats(ballots.all, pairs)),
        gold=share_of_flags(_gold(ballots.all, pairs)),
        score=0.0,
        judged=0,
        flags=tuple(flag for flag in flags if flag),
        set_aside=ballots.all[-1].set_aside,
    )


def _median_reading_s(votes: Sequence[Vote]) -> float | None:
    """Server times only: from the pair's issue or the vote before, whichever came later.

    Pairs are fetched ahead, so that the issue alone would count the reading of others.
    """
    here = [v for v in votes if v.source is not VoteSource.ARGILLA]
    times = []
    for before, vote in zip([None, *here], here, strict=False):
        begun = [m for m in (vote.issued_at, before.created_at if before else None) if m]
        if begun:
            times.append(max(0.0, (vote.created_at - max(begun)).total_seconds()))
    return median(times) if times else None


def _gold(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> Iterator[bool]:
    for vote in votes:
        pair = pairs[vote.pair_id]
        if pair.kind is PairKind.GOLD and vote.choice in DECIDED:
            yield vote.record_choice is pair.expected


def _repeats(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> Iterator[bool]:
    """For each repeat decided both times, whether the same answer was chosen."""
    decided = {v.pair_id: v for v in votes if v.choice in DECIDED}
    for vote in decided.values():
        pair = pairs[vote.pair_id]
        earlier = decided.get(pair.repeats) if pair.repeats else None
        if earlier is not None:
            before = pairs[earlier.pair_id].resolve(earlier.choice, earlier.flipped)
            after = pair.resolve(vote.choice, vote.flipped)
            if before and after:
                # By its text: a repeat may hold its answers in the other order.
                yield before.chosen.text == after.chosen.text


def _measured_noise(trusted: Sequence[Vote]) -> float:
    rate = estimate_flip_rate(trusted)
    if rate is None or rate.pairs < MIN_OVERLAPS:
        return USUAL_NOISE
    return min(MOST_NOISE, max(1 - COPIES, rate.rate))


def _usual_gold(shares: Sequence[Share]) -> float:
    """How often voters are right on gold pairs, at the most as often as on clear ones.

    A gold file that is hard or wrong in places must not put everybody under suspicion.
    """
    right, total = sum(s.count for s in shares), sum(s.total for s in shares)
    usual = (right + GOLD_WEIGHT * GOLD_RIGHT) / (total + GOLD_WEIGHT)
    return max(1 - MOST_NOISE, min(GOLD_RIGHT, usual))


def _judged(
    voter: VoterHealth, ballots: _Ballots, pairs: Mapping[str, Pair], peers: _Peers
) -> VoterHealth:
    """The same voter with score, and flagged where the score says so."""
    is_peer = voter.voter in peers.voters
    leads = [lead_of_others(v, peers.tallies, own=is_peer) for v in ballots.ordinary]
    beside = [Evidence(n > 0, honest_rate(peers.noise, abs(n))) for n in leads if n]
    right = [Evidence(agrees, peers.gold) for agrees in _gold(ballots.all, pairs)]
    again = honest_rate(peers.noise, 1)
    steady = [Evidence(agrees, again) for agrees in _repeats(ballots.all, pairs)]
    evidence = [*beside, *right, *steady]
    score, surprise = score_evidence(evidence)
    said = [
        f"{words} {sum(e.agrees for e in group)} of {len(group)}"
        for words, group in (
            ("with the majority of others", beside),
            ("right on gold pairs", right),
            ("as before on repeated pairs", steady),
        )
        if group
    ]
    # Whoever follows a side or a length agrees with nobody either: once said is enough.
    is_open = len(evidence) >= MIN_JUDGED and not voter.flags
    flag = flag_noise(score, surprise, said) if is_open else None
    return replace(
        voter,
        score=score,
        judged=len(evidence),
        flags=(*voter.flags, *([flag] if flag else [])),
    )
