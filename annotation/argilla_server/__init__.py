"""The embedded Argilla: a real argilla-server as a child process in an environment of its own.

`launcher` and `environment` run in the app and know no argilla package; `server` and `engine` run
in the child and know nothing of the app. Imports nothing here: both sides load this package.
"""
