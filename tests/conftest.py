"""Fixtures shared by every test file."""

from argilla_fixture import argilla_server  # noqa: F401
from hub_double import hub_double_fixture  # noqa: F401
from running_app import voted_app  # noqa: F401

from tests.trainer_fixture import make_trainer, tiny_export, tiny_folder  # noqa: F401
