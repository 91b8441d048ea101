# SPDX-License-Identifier: Apache-2.0
"""Point the real Hub clients at a server: in this process, or in one to be started."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .hub import HubServer

#: Variables that would lead a client elsewhere, or into another cache.
_STRAY = (
    "HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HF_ASSETS_CACHE HUGGINGFACE_ASSETS_CACHE HF_DATASETS_CACHE "
    "HF_MODULES_CACHE HF_XET_CACHE HF_TOKEN_PATH HF_DATASETS_DOWNLOADED_DATASETS_PATH "
    "HF_DATASETS_EXTRACTED_DATASETS_PATH HF_DATASETS_OFFLINE TRANSFORMERS_OFFLINE "
    "HUGGING_FACE_HUB_TOKEN HUGGINGFACE_CO_STAGING HTTP_PROXY http_proxy ALL_PROXY all_proxy"
).split()


def client_env(
    hub: HubServer, *, home: Path | None = None, token: str | None = None
) -> dict[str, str]:
    """Environment of a process whose Hub clients speak to `hub` alone.

    Parameters
    ----------
    home:
        Where the clients keep caches and settings; ``hub.home`` (removed on close) if absent.
    token:
        Access token; ``hub.token`` if absent, none if empty.
    """
    env = {name: value for name, value in os.environ.items() if name not in _STRAY}
    env |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home or hub.home),
        "HF_TOKEN": hub.token if token is None else token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if token == "":
        del env["HF_TOKEN"]
    return env


@contextmanager
def connected(
    hub: HubServer, *, home: Path | None = None, token: str | None = None
) -> Iterator[HubServer]:
    """Make `huggingface_hub` and `datasets` of this process speak to `hub`, then undo it.

    Both read their settings when imported, so the settings are patched where they are looked up;
    clients made inside (``HfApi()``, ``HfFileSystem()``, ``hf://`` paths, ``load_dataset``) need no
    endpoint. The environment is set as well, for processes started inside.
    """
    # All modules first: those imported later would keep patched values for ever.
    constants, files, api, http = (
        importlib.import_module(f"huggingface_hub.{name}")
        for name in ("constants", "hf_file_system", "hf_api", "utils._http")
    )
    progress = importlib.import_module("huggingface_hub.utils.tqdm")
    importlib.import_module("huggingface_hub._snapshot_download")
    env = client_env(hub, home=home, token=token)
    place = Path(env["HF_HOME"])
    settings: list[tuple[Any, dict[str, Any]]] = [
        (constants, _constants(hub.url, place)),
        (progress, {"HF_HUB_DISABLE_PROGRESS_BARS": True}),
        # Made at import, with the endpoint of that time.
        *((one, {"endpoint": hub.url}) for one in (api.api, files.hffs, files.hffs._api)),
    ]
    if importlib.util.find_spec("datasets"):
        importlib.import_module("datasets")
        settings += [
            (importlib.import_module("datasets.config"), _datasets_config(hub.url, place)),
            (
                importlib.import_module("datasets.utils.tqdm"),
                {"_hf_datasets_progress_bars_disabled": True},
            ),
        ]

    def forget() -> None:
        """Drop connections and listings: ports are given out again."""
        http.close_session()
        files.HfFileSystem.clear_instance_cache()
        files.hffs.invalidate_cache()

    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        for where, values in settings:
            for name, value in values.items():
                patch.setattr(where, name, value)
        forget()
        try:
            yield hub
        finally:
            forget()


def _constants(url: str, home: Path) -> dict[str, Any]:
    return {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_UPDATE_CHECK": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
    }


def _datasets_config(url: str, home: Path) -> dict[str, Any]:
    cache = home / "datasets"
    return {
        "HF_ENDPOINT": url,
        "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_OFFLINE": False,
        "HF_CACHE_HOME": str(home),
        "HF_DATASETS_CACHE": cache,
        "HF_MODULES_CACHE": home / "modules",
        "DOWNLOADED_DATASETS_PATH": cache / "downloads",
        "EXTRACTED_DATASETS_PATH": cache / "downloads" / "extracted",
        # The viewer's server is another host (datasets-server.<endpoint>); there is none here.
        "USE_PARQUET_EXPORT": False,
    }
