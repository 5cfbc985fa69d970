"""Starting: the app, or on a Space that can't start yet the page that says what it lacks.

Anywhere else a refused start is a Fault, which the command line prints in one line.
"""

import sys

from alignment.settings import AlignmentSettings
from alignment.web.setup_page import serve_setup_page
from annotation.faults import Fault
from annotation.quick_imports import uncollected
from annotation.settings import AnnotationSettings, SpaceEnvironment, load_settings
from annotation.space_needs import space_needs


def start_app(*, synthetic: bool) -> None:
    """Serve until a signal. Raises Fault where the start is refused and this is no Space."""
    space = load_settings(SpaceEnvironment)
    needs = space_needs(space)
    if any(need.required for need in needs):
        serve_setup_page(space, needs, None)
        return
    try:
        annotation, alignment = load_settings(AnnotationSettings), load_settings(AlignmentSettings)
        # Only now: gradio reads some of the same variables at import, and fails without a word.
        with uncollected():
            from alignment.web.serve import serve_app

        serve_app(annotation, alignment, synthetic=synthetic)
    except Fault as fault:
        if not space.on_space:
            raise
        # A Space that ends shows its visitors nothing of why; its owner's log has the line too.
        print(" ".join(str(fault).split()), file=sys.stderr, flush=True)  # noqa: T201
        serve_setup_page(space, needs, str(fault))
