# SPDX-License-Identifier: Apache-2.0
"""What the tests of remote reading share."""

from __future__ import annotations

from typing import Any

import pytest
from servers.http_base import Answer, LoopbackServer, Request

#: Not the same anywhere, so that a wrong range shows.
DATA = bytes((i * i // 7 + i) % 251 for i in range(20_000))


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text and text
    return text


class Odd(LoopbackServer):
    """Says what its ``say`` gives."""

    say: Any = None

    def answer(self, request: Request) -> Answer:
        answer = self.say(request)
        assert isinstance(answer, Answer)
        return answer
