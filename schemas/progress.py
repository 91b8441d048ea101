# SPDX-License-Identifier: Apache-2.0
"""Where long work says what it does; the command line draws bars or plain lines."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Told of stages and steps as they happen."""

    def stage(self, name: str, total: int) -> None:
        """A stage with ``total`` steps begins."""

    def advance(self, what: str, steps: int) -> None:
        """``steps`` more of the current stage are done."""

    def note(self, text: str) -> None:
        """One line for the user."""


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str, total: int) -> None:
        """Nothing."""

    def advance(self, what: str, steps: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
