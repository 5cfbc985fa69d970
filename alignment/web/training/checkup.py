"""The data doctor as the page asks it: quick by itself, down to the tokens on demand.

The quick check reads votes only. The deep one is `python app.py doctor --json` in a child
process, because it needs a tokenizer, which the web app never loads.
"""

import subprocess
import sys
import threading
from pathlib import Path

from alignment.checks.diagnosis import Diagnosis, DiagnosisError
from alignment.pipeline import Pipeline
from alignment.places.child import ROOT, child_environment
from alignment.runs.recipes import Method

TIMEOUT_S = 180
"""Some seconds are usual: the imports, then thousands of examples."""


class Checkup:
    """Diagnoses of one home's votes. Keeps the last deep one of each method until votes change."""

    def __init__(self, pipeline: Pipeline, home: Path) -> None:
        self._pipeline = pipeline
        self._home = home
        self._deep: dict[Method, Diagnosis] = {}
        self._one_child = threading.Lock()

    def latest(self, method: Method) -> Diagnosis:
        """The deep diagnosis if it is of the votes as they are now, else a quick one."""
        quick = self._pipeline.diagnose(method, tokens=False)
        deep = self._deep.get(method)
        return deep if deep and deep.dataset_sha256 == quick.dataset_sha256 else quick

    def look_deeper(self, method: Method) -> Diagnosis:
        """Run the doctor down to the tokens, seconds. Raises DiagnosisError when it can't."""
        with self._one_child:
            found = self.latest(method)
            if not found.tokens:
                self._deep[method] = found = self._run(method)
            return found

    def _run(self, method: Method) -> Diagnosis:
        command = [sys.executable, str(ROOT / "app.py"), "doctor", "--json", "--method", method]
        environment = child_environment() | {"VOTETUNE_HOME": str(self._home.absolute())}
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DiagnosisError(
                f"The doctor took more than {TIMEOUT_S} s: run `python app.py doctor` instead."
            ) from None
        # With a finding that blocks it exits with 1 and has printed its report all the same.
        if not done.stdout.strip():
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise DiagnosisError(f"The doctor could not look: {said[-1][:300]}")
        return Diagnosis.from_json(done.stdout)
