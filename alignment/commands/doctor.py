"""The data doctor's report in a terminal: findings, tokens, advice. Changes nothing."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from alignment.checks.diagnosis import Diagnosis, ExampleTokens, Finding, Level, TokenPiece
from annotation.faults import Fault

# Signs beside colours, so that a report without colours says the same.
_SIGNS: Mapping[Level, tuple[str, str]] = {
    "blocking": ("✗", "bold red"),
    "warning": ("!", "bold yellow"),
    "note": ("·", "cyan"),
    "ok": ("✓", "green"),
}
_ROLES = {"template": "magenta", "text": "", "end": "bold green"}


class BlockedError(Fault):
    """A finding that a run is refused for."""


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """The whole report, the worst first; as wide as the terminal."""
    title = f"Data doctor: {diagnosis.examples} examples for {diagnosis.base}"
    console.print(title, style="bold", highlight=False)
    console.print()
    for finding in diagnosis.findings:
        _print_finding(finding, console)
    if diagnosis.tokens:
        _print_tokens(diagnosis, console)
    console.print("Advice", style="bold")
    for reason in diagnosis.reasons:
        console.print(Padding(Text(reason), (0, 0, 0, 2)))
    if not diagnosis.blocking:
        console.print(Padding(Text(_command(diagnosis), style="bold"), (0, 0, 0, 2)))


def refuse_blocked(diagnosis: Diagnosis) -> None:
    """Raise BlockedError with the first blocking finding in one line, where there is one."""
    if diagnosis.blocking:
        raise BlockedError(diagnosis.blocking[0].line)


def _print_finding(finding: Finding, console: Console) -> None:
    sign, style = _SIGNS[finding.level]
    console.print(Text.assemble((sign, style), " ", (finding.title, "bold")))
    quiet = "dim" if finding.level == "ok" else ""
    console.print(Padding(Text(finding.meaning, style=quiet), (0, 0, 0, 2)))
    if finding.advice:
        advice = Text.assemble(("→ ", style), f"{finding.advice[0].upper()}{finding.advice[1:]}.")
        console.print(Padding(advice, (0, 0, 0, 2)))


def _print_tokens(diagnosis: Diagnosis, console: Console) -> None:
    console.print()
    title = f"{len(diagnosis.tokens)} examples as the model sees them"
    console.print(title, style="bold", highlight=False)
    legend = Text.assemble(
        "Each token with its id. ",
        ("From the chat template", _ROLES["template"]),
        ", said, ",
        ("end of turn", _ROLES["end"]),
        f". At most {diagnosis.max_length} tokens.",
    )
    console.print(Padding(legend, (0, 0, 1, 2)))
    for example in diagnosis.tokens:
        _print_example(example, diagnosis.advised.method, console)


def _print_example(example: ExampleTokens, method: str, console: Console) -> None:
    sides = (
        ("prompt", example.prompt, False),
        ("chosen", example.chosen, example.chosen_cut),
        ("rejected", example.rejected, example.rejected_cut),
    )
    for name, pieces, cut in sides:
        counted = sum(piece.counts for piece in pieces)
        count = "all count" if counted == len(pieces) else f"{counted or 'none'} count"
        end = ", cut before its end" if cut else ""
        heading = f"{name}: {len(pieces)} tokens, {count} in the loss of {method.upper()}{end}"
        console.print(Padding(Text(heading, style="dim"), (0, 0, 0, 2)))
        console.print(Padding(_pieces(pieces), (0, 0, 0, 4)))
    console.print()


def _pieces(pieces: Sequence[TokenPiece]) -> Text:
    text = Text()
    for piece in pieces:
        text.append("".join(map(_visible, piece.text)), style=_ROLES[piece.role])
        text.append(f"·{piece.id}  ", style="dim")
    return text


def _visible(character: str) -> str:
    """The character, or a sign for one that can't be seen or could steer a terminal."""
    sign = {"\n": "⏎", "\t": "⇥", " ": "␣"}.get(character)
    return sign or (character if character.isprintable() else f"\\u{ord(character):04x}")


def _command(diagnosis: Diagnosis) -> str:
    options = diagnosis.advised
    asked = (
        ("loss", options.loss),
        ("flip-rate", options.flip_rate),
        ("length-penalty", options.length_penalty),
    )
    more = "".join(f" --{name} {value}" for name, value in asked if value is not None)
    return f"python app.py train --method {options.method}{more}"
