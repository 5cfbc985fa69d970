"""Fixtures shared by every test file."""

from argilla_fixture import argilla_server as argilla_server
from hub_double import hub_double_fixture  # noqa: F401
