# SPDX-License-Identifier: Apache-2.0
"""Secrets of tests, the faults under which they might show, and where to look for them."""

from __future__ import annotations

from pathlib import Path

from servers import faults

#: Looks like one of the Hub's; parts of it must not show either.
TOKEN = "hf_" + "QzXwVuTsRqPoNmLkJiHgFeDcBaZyXwVuTs"
PASSWORD, SIGNATURE = "pa55w0rd-QzXw", "sigQzXwVuTsRqPo"
SECRETS = (TOKEN, TOKEN[3:15], PASSWORD, SIGNATURE)
FAULTS = {
    "401": faults.fail(401), "403": faults.fail(403), "404": faults.fail(404),
    "gated": faults.fail(403, X_Error_Code="GatedRepo"),
    "no repo": faults.fail(401, X_Error_Code="RepoNotFound"),
    "429": faults.rate_limit(0), "500": faults.fail(500), "503": faults.fail(503),
    "cut": faults.cut(3), "refused": faults.refuse(), "short": faults.shorten(3),
}  # fmt: skip


def told(error: BaseException) -> str:
    """All that an error and what it came from may show."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            # What is suppressed is not shown by Python, but by tools that look at it.
            waiting += [one.__cause__, one.__context__ if not one.__suppress_context__ else None]
    return " ".join(f"{e!r} {e} {e.args} {getattr(e, '__notes__', '')}" for e in seen)


def check(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


def check_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            for secret in SECRETS:
                assert secret.encode() not in path.read_bytes(), path
        check(path.name)
