# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matteratlas.registry import versions
from matteratlas.registry.versions import Version
from matteratlas.schemas.errors import ArchiveError

#: semver.org, section 11: each comes before the next.
RISING = (
    "0.0.1 0.9.0 1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 "
    "1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1-0 1.0.1 1.9.0 1.10.0 1.11.0 2.0.0 2.1.0 2.1.1 10.0.0"
).split()

number = st.integers(0, 30)
part = st.one_of(number.map(str), st.from_regex(r"[0-9a-zA-Z-]*[a-zA-Z-]", fullmatch=True))
some_versions = st.builds(
    Version, number, number, number, st.lists(part, max_size=3).map(tuple), st.just("")
)


def test_order_of_the_standard() -> None:
    parsed = [Version.parse(text) for text in RISING]
    for (i, a), (j, b) in itertools.product(enumerate(parsed), repeat=2):
        assert a.compare(b) == (i > j) - (i < j), (str(a), str(b))
        assert (a < b, a == b, a >= b) == (i < j, i == j, i >= j)


@given(some_versions)
def test_text_and_back(version: Version) -> None:
    assert Version.parse(str(version)) == version
    assert Version.parse(f"v{version}+b.01") == version
    assert Version.parse(f"{version}+b.01").build == "b.01"


@given(some_versions, some_versions, some_versions)
def test_order_is_total(a: Version, b: Version, c: Version) -> None:
    assert [a < b, a == b, a > b].count(True) == 1
    assert a.compare(b) == -b.compare(a)
    assert (a == b) == (hash(a) == hash(b) and str(a) == str(b))
    if a <= b and b <= c:
        assert a <= c


@given(some_versions, st.sampled_from(["major", "minor", "patch"]))
def test_next_release_comes_after(version: Version, step: str) -> None:
    after = version.bump(step)  # type: ignore[arg-type]
    assert after > version and not after.pre
    at = ("major", "minor", "patch").index(step)
    assert not any(after.core[at + 1 :])
    if not version.pre:
        assert versions.step(str(version), str(after)) == step


def test_a_prerelease_leads_to_its_release() -> None:
    assert str(Version.parse("2.0.0-rc.1").bump("major")) == "2.0.0"
    assert str(Version.parse("2.1.0-rc.1").bump("minor")) == "2.1.0"
    assert str(Version.parse("2.1.0-rc.1").bump("major")) == "3.0.0"
    assert str(Version.parse("2.1.1-rc.1").bump("patch")) == "2.1.1"


@given(st.permutations(RISING), st.sets(st.sampled_from(["main", "nightly", "1.0", "v1"])))
def test_latest_and_stable(shuffled: list[str], others: set[str]) -> None:
    listed = [*others, *shuffled]
    assert versions.latest(listed) == versions.stable(listed) == "10.0.0"
    listed.append("v10.0.1-rc.1")
    assert versions.latest(listed) == "v10.0.1-rc.1"
    assert versions.stable(listed) == "10.0.0"
    assert versions.latest(others) is versions.stable(others) is None
    assert versions.stable(["1.0.0-rc.1"]) is None


def test_selection() -> None:
    listed = ["v1.0.0", "1.1.0", "1.2.0-rc.1", "1.1.0+second"]
    assert versions.select("latest", listed) == "1.2.0-rc.1"
    assert versions.select("stable", listed) == "1.1.0+second"
    assert versions.select("1.0.0", listed) == "v1.0.0"
    assert versions.select("v1.1.0", listed) == "1.1.0"
    assert versions.select("1.1.0+second", listed) == "1.1.0+second"
    assert versions.select("1.1.0+third", listed) is None
    assert versions.select("9.0.0", listed) is versions.select("main", listed) is None


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0-a..b", "1.0.0+", "v",
     "1.0.0/..", " 1.0.0", "1.0.0\n", "1.0.0-ä", "V1.0.0", "٣.0.0", "1" * 5000 + ".0.0"],
)  # fmt: skip
def test_what_is_no_version(text: str) -> None:
    assert not versions.is_version(text)
    with pytest.raises(ArchiveError, match="is not a semantic version; give") as caught:
        Version.parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        ("1.2.3", "2.0.0", "major"),
        ("1.2.3", "1.3.0", "minor"),
        ("1.2.3", "1.2.4", "patch"),
        ("1.2.3-rc.1", "1.2.3", "pre-release"),
        ("1.2.3", "1.3.0-rc.1", "minor"),
        ("v0.9.0", "v1.0.0", "major"),
    ],
)
def test_step(old: str, new: str, step: str) -> None:
    assert versions.step(old, new) == step
    with pytest.raises(ArchiveError, match="does not come after"):
        versions.step(new, old)
    with pytest.raises(ArchiveError, match="does not come after"):
        versions.step(new, f"{new}+other")


@pytest.mark.parametrize(
    ("location", "folder", "wanted"),
    [
        ("data/atlas", "data/atlas", None),
        ("data/atlas@latest", "data/atlas", "latest"),
        ("data/atlas/@stable", "data/atlas", "stable"),
        ("data/a@b/atlas@v1.2.0-rc.1", "data/a@b/atlas", "v1.2.0-rc.1"),
        ("team@home/atlas", "team@home/atlas", None),
        ("atlas@main", "atlas@main", None),
        ("@latest", "@latest", None),
        ("/@1.0.0", "/", "1.0.0"),
        ("http://me:pw@host/atlas@1.0.0", "http://me:pw@host/atlas", "1.0.0"),
        ("http://me:pw@host/atlas", "http://me:pw@host/atlas", None),
        ("s3://bucket/atlas@latest", "s3://bucket/atlas", "latest"),
    ],
)
def test_alias_at_the_end_of_a_location(location: str, folder: str, wanted: str | None) -> None:
    assert versions.split(location) == (folder, wanted)
