"""Fixtures shared by every test file."""

from hub_double import hub_double_fixture as hub_double_fixture
