"""A node's own copy of a dataset that lies in an object store, fetched once and shared by all trials on the node."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

from detector.data.cache_rule import CacheRule
from detector.data.dataset import DataError, DataSource
from detector.data.places import cache_home, exclusive_lock
from search.storage.store import UnfitNodeError, get_files, is_link, last_name, open_store, remove_folder
from search.street import LINK, street_here

NEEDED = ("train.json", "val.json")


def fetch_data(link: str) -> Path:
    """The folder that holds this machine's copy of a dataset; one process fetches, others wait.

    The copy is known by the names and sizes that the store lists: data that changed there is fetched anew.

    Raises: DataError where the link holds no dataset, StorageError where it cannot be read.
    """
    store = open_store(link)
    listed = store.sizes()
    missing = [name for name in NEEDED if name not in listed]
    if missing:
        raise DataError(
            f"--data {link}: must hold train.json, val.json and images/; missing: {', '.join(missing)} (found {len(listed)} objects)"
        )
    digest = hashlib.sha256(json.dumps([link, sorted(listed.items())]).encode()).hexdigest()[:16]
    folder = cache_home() / "fetched" / digest / last_name(link)
    with exclusive_lock(folder.parent.with_suffix(".lock")):
        if not folder.is_dir():
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            remove_folder(unfinished)
            get_files(store, listed, unfinished)
            unfinished.rename(folder)
    return folder


def fetched_source(link: str) -> DataSource:
    """The dataset of a link, in this machine's copy; what it is fetched from is remembered."""
    source = DataSource.from_folder(fetch_data(link))
    source.link = link
    return source


def source_here(source: dict[str, Any]) -> dict[str, Any]:
    """A study's source as it lies on this machine: fetched where it came from an object store, made where it is the street
    and is not there, else as it is; its images kept as the plan settled it where the plan was made here."""
    link, settled = source.get("link", ""), source.get("settled") or {}
    cache = source.get("cache")
    if settled.get("host") == socket.gethostname():
        cache = CacheRule(settled["mode"]).to_dict()
    if is_link(link):
        source = fetched_source(link).to_dict()
    elif link.startswith(LINK) and not Path(source["train"][0]).is_file():
        source = street_here(link).to_dict()
    return source if source.get("cache") == cache else {**source, "cache": cache}


def check_fingerprint(found: str, planned: str | None, name: str) -> None:
    """Raises: UnfitNodeError where a node's data is not what the study was planned on."""
    if planned and not planned.startswith(found):
        raise UnfitNodeError(
            f"node {socket.gethostname()}: {name} has fingerprint {found} here, the study was planned on {planned}: scores would "
            "not compare. Give this node the same files, or clear its cache"
        )
