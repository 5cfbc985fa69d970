"""The one kind of error that is written for the person who reads it."""


class Fault(RuntimeError):
    """Something went wrong that a person can act on.

    Its text is one line: what, which one, and what next. Commands print it and exit with 1;
    tabs and routes show it. Anything else that is raised is a bug and keeps its traceback.
    """


class Unaskable(Fault):
    """A prompt that this model cannot be asked, for a reason that whoever wrote it can mend."""
