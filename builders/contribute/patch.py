# SPDX-License-Identifier: Apache-2.0
"""Card, adapter and test as one patch for the code repository, as ``git format-patch`` writes."""

from __future__ import annotations

import subprocess
from email.header import Header
from email.utils import formatdate
from pathlib import Path

from ...schemas.cards import ModelCard
from .folder import Contribution


def patch_files(contribution: Contribution, card: ModelCard) -> dict[str, Path]:
    """Local file of each path in the code repository that is new."""
    files = {f"registry/models/{card.family}/{card.id}.yaml": contribution.card_path}
    if contribution.adapter_path is not None:
        files[f"builders/adapters/{contribution.module}.py"] = contribution.adapter_path
    if contribution.test_path is not None:
        files[f"tests/builders/adapters/test_{contribution.module}.py"] = contribution.test_path
    return files


def write_patch(contribution: Contribution, card: ModelCard, *, body: str = "") -> Path:
    """Write ``<id>.patch`` beside the report; apply it with ``git am <id>.patch``.

    Parameters
    ----------
    body:
        Text of the commit below its title.
    """
    who = f"{_git('user.name') or 'A contributor'} <{_git('user.email') or 'none@example.org'}>"
    name, _, address = who.rpartition(" ")
    files = patch_files(contribution, card)
    title = Header(f"[PATCH] Add model {card.id}", header_name="Subject").encode()
    lines = [
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001",
        f"From: {Header(name).encode()} {address}",
        f"Date: {formatdate()}",
        f"Subject: {title}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=UTF-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        *([body, ""] if body else []),
        "---",
    ]
    for path in sorted(files):
        text = files[path].read_text(encoding="utf-8")
        rows = text.removesuffix("\n").split("\n")
        lines += [
            f"diff --git a/{path} b/{path}",
            "new file mode 100644",
            "--- /dev/null",
            f"+++ b/{path}",
            f"@@ -0,0 +1,{len(rows)} @@",
            *(f"+{row}" for row in rows),
            *([] if text.endswith("\n") else ["\\ No newline at end of file"]),
        ]
    target = contribution.work / f"{card.id}.patch"
    target.write_text("\n".join([*lines, "-- ", "matteratlas", "", ""]), encoding="utf-8")
    return target


def _git(key: str) -> str:
    try:
        done = subprocess.run(
            ["git", "config", "--get", key], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""  # no git here
    return done.stdout.strip()
