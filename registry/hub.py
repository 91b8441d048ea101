# SPDX-License-Identifier: Apache-2.0
"""The one module that reaches the network: where an atlas is, and reading bytes of its files.

A location is a folder or a URL (``http(s)://``, ``s3://``, ``hf://datasets/ORG/NAME[@REVISION]``,
or any other that fsspec knows), with ``@latest``, ``@stable`` or a version behind it where it holds
releases. Weights of models come through it too (:mod:`matteratlas.registry.models_hub`,
:mod:`matteratlas.registry.models_url`), and only
pip reaches the network besides, for :mod:`matteratlas.registry.packages`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import fsspec
from fsspec.asyn import sync

from ..schemas.errors import ArchiveError, SourceError, missing_extra
from . import versions
from .hub_names import COMMIT, dataset_parts, near, recall
from .models_hub import model_files
from .models_url import model_url
from .packages import Kind, cache_dir, package_file, sha256_of
from .replies import (
    RETRIED,
    NoRevisionError,
    PassingFault,
    Web,
    check_size,
    content,
    plain,
    redacted,
    refusal,
    truncated,
)
from .streams import Asked, RangeStream, read_bounded

__all__ = [
    "Kind",
    "cache_dir",
    "fetch",
    "filesystem",
    "model_files",
    "model_url",
    "offline",
    "open_file",
    "package_file",
    "pinned",
    "sha256_of",
]

logger = logging.getLogger("matteratlas")

#: Times a read is tried, seconds before the second try (doubled for each further one), and the
#: longest wait a server may ask for: rate limits of the Hub are renewed within five minutes.
TRIES = 5
PAUSE = 0.5
LONGEST_WAIT = 300.0
#: Seconds for a connection, and between two pieces of a body; a body as a whole takes its time.
CONNECT_TIMEOUT, READ_TIMEOUT = 30.0, 60.0


# --- locations -----------------------------------------------------------------------------------


def filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system a location is on, and its root there.

    Parameters
    ----------
    location:
        See the module. What is not pinned (:func:`pinned`) is resolved first.

    Returns
    -------
    fs, root
        ``f"{root}/{path}"`` is what :func:`fetch` takes. ``fs.revision`` is the commit of a Hub
        dataset; other file systems have no such attribute.

    Raises
    ------
    SourceError
        The location is malformed, cannot be reached, or has no such version.
    MissingExtraError
        Reading from there takes a package that is not installed.
    """
    location = pinned(location)
    if location.startswith("hf://"):
        return _hub_filesystem(location)
    if location.startswith(("http://", "https://")):
        if "?" in location or "#" in location:
            raise SourceError(
                f"{redacted(location)}: files are found below a plain URL; "
                "give one without '?' and '#'"
            )
        return _web_filesystem(Web()), location.rstrip("/")
    if "://" not in location:
        return fsspec.filesystem("file"), location
    try:
        fs, root = fsspec.core.url_to_fs(location)
    except ImportError as error:
        if location.startswith(("s3://", "s3a://")):
            raise missing_extra("s3fs", "s3") from error
        raise SourceError(f"{redacted(location)}: {error}") from error
    except ValueError as error:
        raise SourceError(
            f"{redacted(location)}: {error}; give a folder or an http, s3 or hf URL"
        ) from error
    return fs, root.rstrip("/")


def pinned(location: str) -> str:
    """The location with its version settled, so that all who open it read the same one.

    ``hf://datasets/ORG/NAME`` and ``...@REVISION`` become ``...@COMMIT``: ``@latest`` means the
    highest semantic version among the tags, ``@stable`` the highest that is no pre-release, and no
    revision the latest or, without such tags, ``main``. ``FOLDER@latest``, ``@stable`` and
    ``@1.2.0`` become ``FOLDER/<version>`` as listed in ``FOLDER/releases.json``. All else stays.

    Where ``HF_HUB_OFFLINE`` forbids the Hub, a dataset that was pulled is the folder it is in.

    Raises
    ------
    SourceError
        The dataset, the folder's list or the version is not to be had.
    """
    location = str(location)
    if location.startswith("hf://"):
        return _pinned_dataset(location)
    folder, wanted = versions.split(location)
    if wanted is None or ("://" not in location and Path(location).is_dir()):
        return location
    fs, root = filesystem(folder)
    try:
        listed = json.loads(fetch(fs, f"{root}/releases.json"))["releases"]
        known = [text for text in listed if versions.Version.parse(text)]
    except FileNotFoundError:
        raise SourceError(
            f"{redacted(location)}: {redacted(folder)} has no releases.json to look "
            f"'{wanted}' up in; name the folder of the release itself"
        ) from None
    except (ValueError, KeyError, TypeError, ArchiveError) as error:
        raise SourceError(
            f"{redacted(folder)}/releases.json: not a list of versions ({error}); "
            'write {"releases": ["1.0.0"]}'
        ) from error
    chosen = versions.select(wanted, known)
    if chosen is None:
        raise SourceError(
            f"{redacted(folder)} has no release '{wanted}'; it lists {near(wanted, known)}"
        )
    return f"{folder}/{chosen}"


def _pinned_dataset(location: str) -> str:
    dataset, revision, folder = dataset_parts(location)
    if offline():
        pulled = recall(dataset, revision)
        if pulled is None:
            raise _forbidden(dataset)
        return f"{pulled}{folder}"
    if revision and COMMIT.fullmatch(revision):
        return location
    web = _hub_web(dataset)
    fs, api = _web_filesystem(web), f"{web.endpoint}/api/datasets/{dataset}"
    commit: Any = None
    if revision is None or revision in versions.ALIASES:
        refs = _refs(fs, api)
        chosen = versions.select(revision or "latest", refs["tags"])
        if chosen is None and revision:
            raise SourceError(
                f"hf://datasets/{dataset} has no version tag for '@{revision}'; its tags are "
                f"{near('v1.0.0', refs['tags'])}: name one of them, a branch or a commit"
            )
        commit = refs["tags"][chosen] if chosen else refs["branches"].get("main")
    else:
        try:
            # Without `expand` the answer lists every file of the dataset.
            url = f"{api}/revision/{quote(revision, safe='')}?expand=sha"
            commit = json.loads(fetch(fs, url))["sha"]
        except (FileNotFoundError, NoRevisionError):
            tags = _refs(fs, api)["tags"]
            chosen = versions.select(revision, tags)  # 1.2.0 is the tag v1.2.0
            if chosen is None:
                raise SourceError(
                    f"hf://datasets/{dataset} has no revision '{revision}'; "
                    f"tags like it: {near(revision, tags)}"
                ) from None
            commit = tags[chosen]
        except (ValueError, KeyError, TypeError):
            commit = None
    if not COMMIT.fullmatch(str(commit)):
        raise SourceError(f"{api}: the answer names no commit; check HF_ENDPOINT")
    return f"hf://datasets/{dataset}@{commit}{folder}"


def _refs(fs: Any, api: str) -> dict[str, dict[str, str]]:
    """Commits of a dataset's tags and branches, by name."""
    try:
        found = json.loads(fetch(fs, f"{api}/refs"))
        return {
            kind: {str(ref["name"]): ref["targetCommit"] for ref in found[kind]}
            for kind in ("tags", "branches")
        }
    except FileNotFoundError:
        raise SourceError(
            f"{api}: no such dataset; check its name, and HF_TOKEN if it is private"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"{api}/refs: not a list of tags; check HF_ENDPOINT") from None


# --- file systems --------------------------------------------------------------------------------


def _hub_filesystem(location: str) -> tuple[Any, str]:
    """Plain HTTP below ``resolve/COMMIT``: a read is one request, HfFileSystem lists first."""
    dataset, commit, folder = dataset_parts(location)
    web = _hub_web(dataset)
    fs = _web_filesystem(web)
    fs.revision = commit
    return fs, f"{web.endpoint}/datasets/{dataset}/resolve/{commit}{folder}"


def _hub_web(dataset: str) -> Web:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    if offline():
        raise _forbidden(dataset)
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    headers = build_hf_headers(library_name="matteratlas")
    return Web(headers=headers, dataset=dataset, endpoint=endpoint)


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the Hub."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _forbidden(dataset: str) -> SourceError:
    what = "HF_HUB_OFFLINE forbids the Hub"
    return SourceError(f"hf://datasets/{dataset}: {what}; unset it, or name what was pulled before")


def _web_filesystem(web: Web) -> Any:
    from urllib.request import getproxies

    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT
    )
    # Proxies of the environment are used; without any, ~/.netrc and its passwords are left alone.
    fs = fsspec.filesystem("http", skip_instance_cache=True)
    # Not as options, which go into its JSON and pickles: a token must not.
    fs.client_kwargs = {"timeout": timeout, "trust_env": bool(getproxies())}
    fs.kwargs["headers"] = web.headers
    fs.web = web
    return fs


# --- reading -------------------------------------------------------------------------------------


def fetch(
    fs: fsspec.AbstractFileSystem,
    path: str,
    start: int | None = None,
    stop: int | None = None,
    *,
    size: int | None = None,
) -> bytes:
    """Bytes ``start`` to ``stop`` of a file in one request, as many as asked for.

    Cut connections, short bodies, server errors and rate limits are tried again, up to
    :data:`TRIES` times in all, after the time the server asks for or growing pauses.

    Parameters
    ----------
    fs, path:
        From :func:`filesystem`: ``f"{root}/{path}"``.
    start, stop:
        Absolute positions; None is the file's own end.
    size:
        Bytes the whole file must have.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ArchiveError
        The file ends before ``stop``, or has another size.
    SourceError
        It cannot be read, or is larger than is read at once; one line with the URL (no query, no
        token), the fault and the mend.
    """
    if (start or 0) < 0 or (stop is not None and stop < (start or 0)):
        raise ValueError(f"range {start}:{stop} of {path}: give absolute, rising positions")
    if stop is not None and stop == (start or 0):
        return b""
    fs = _of_this_process(fs)
    read = _read_web if hasattr(fs, "web") else _read_any
    return _persistently(lambda: read(fs, path, start, stop, size), fs, path)


def _persistently(read: Callable[[], bytes], fs: Any, path: str) -> bytes:
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except PassingFault as fault:
            pause = PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            wait = max(fault.wait or 0.0, pause)
            if attempt == TRIES or wait > LONGEST_WAIT:
                times = f"{attempt} times" if attempt > 1 else "once"
                raise fault.error(
                    f"{redacted(path)}: {fault} (tried {times}); {fault.mend}"
                ) from None
            if fault.wait is not None:
                _say_once(fs, path, f"{fault}, asks to wait; waiting {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _say_once(fs: Any, path: str, text: str) -> None:
    host = redacted(path).split("/")[2]
    topic = f"{host} {text.partition(';')[0]}"
    if topic not in fs.web.said:
        fs.web.said.add(topic)
        logger.warning("%s: %s", host, text)


def _of_this_process(fs: Any) -> Any:
    """The file system, or after a fork its twin: connections and event loops do not survive one."""
    pid = getattr(fs, "_pid", None)
    if pid is None or pid == os.getpid():
        return fs
    twin = fs.__dict__.get("_twin")
    if twin is None or twin._pid != os.getpid():
        if hasattr(fs, "web"):
            twin = _web_filesystem(fs.web)
        else:
            twin = type(fs)(*fs.storage_args, **fs.storage_options, skip_instance_cache=True)
        fs._twin = twin
    return twin


def _read_any(fs: Any, path: str, start: int | None, stop: int | None, size: int | None) -> bytes:
    """Through fsspec, which for object stores tries again by itself."""
    try:
        # A range even for the whole file: without one s3fs asks for the size first.
        data = fs.cat_file(path, start=start or 0, end=stop)
    except FileNotFoundError:
        raise FileNotFoundError(f"{redacted(path)}: no such file") from None
    except PermissionError as error:
        raise SourceError(
            f"{redacted(path)}: access denied ({plain(error)}); check the credentials"
        ) from None
    except Exception as error:
        if "range" in str(error).lower() and "satisf" in str(error).lower():
            if not (start or stop or size):
                return b""  # the whole of an empty object
            raise truncated(path, stop or start or size or 0) from None
        raise SourceError(
            f"{redacted(path)}: {plain(error)}; check the network and the credentials"
        ) from error
    if stop is not None and len(data) != stop - (start or 0):
        raise truncated(path, stop)
    if start is None and stop is None:
        check_size(path, len(data), size)
    return bytes(data)


def _read_web(fs: Any, path: str, start: int | None, stop: int | None, size: int | None) -> bytes:
    import aiohttp

    headers = {"Accept-Encoding": "identity"}
    if start is not None or stop is not None:
        headers["Range"] = f"bytes={start or 0}-{'' if stop is None else stop - 1}"
    try:
        answer = sync(fs.loop, _get, fs, path, headers, (start or 0, stop, size))
    except (
        aiohttp.InvalidURL,
        aiohttp.NonHttpUrlClientError,
        aiohttp.TooManyRedirects,
        aiohttp.ClientSSLError,
    ) as error:
        raise SourceError(
            f"{redacted(path)}: {plain(error)}; check the URL and its server"
        ) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PassingFault(plain(error)) from None
    if answer[0] == 200 and "Range" in headers:
        _say_once(fs, path, "ignores byte ranges; reading whole files")
    data = content(path, answer, start or 0, stop, size)
    if data is None:
        raise refusal(fs.web, path, answer[0], answer[1])
    return data


async def _get(
    fs: Any, url: str, headers: dict[str, str], asked: Asked
) -> tuple[int, Mapping[str, str], bytes]:
    """One GET. On the Hub, where a commit's file stays what it is, redirects are remembered."""
    import yarl

    session = await fs.set_session()
    web: Web = fs.web
    known = web.redirects.get(url)
    if known is not None:
        own = web.headers if known.origin() == yarl.URL(web.endpoint).origin() else {}
        good = False
        try:
            async with session.get(known, headers={**own, **headers}) as answer:
                body = await read_bounded(answer, url, asked)
                good = answer.status < 400 or answer.status == 416
                if good or answer.status in RETRIED:
                    return answer.status, answer.headers, body
        finally:
            if not good:  # its signature has run out, or that host is ill: the Hub gives a new one
                web.redirects.pop(url, None)
    # aiohttp drops the token where a redirect leaves the host it was meant for.
    async with session.get(fs.encode_url(url), headers={**web.headers, **headers}) as answer:
        body = await read_bounded(answer, url, asked)
        if web.dataset and answer.history and answer.status < 400:
            web.redirects[url] = answer.url
        return answer.status, answer.headers, body


def open_file(
    fs: fsspec.AbstractFileSystem, path: str, *, size: int, block: int = 2**18
) -> BinaryIO:
    """A seekable handle that reads as :func:`fetch` does, ``block`` bytes ahead.

    ``size`` are the bytes the file has, as declared: nothing is asked to learn it.
    """
    stream = RangeStream(lambda start, stop: fetch(fs, path, start, stop, size=size), size)
    return io.BufferedReader(stream, buffer_size=block)
