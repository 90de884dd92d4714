"""`treadle.hub`: weights from the web, kept in a folder and checked by the hash in their name."""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sys
import urllib.request
from typing import Any
from urllib.parse import urlparse

from treadle.serialization import load as _load_file

__all__ = ["download_url_to_file", "get_dir", "load", "load_state_dict_from_url", "set_dir"]

HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")
_CHUNK = 1 << 20
_folder: str | None = None


def _get_torch_home() -> str:
    """The folder of everything that is kept between runs; torchvision and its relatives ask for it by this name."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "treadle")


def get_dir() -> str:
    """Where downloads are kept: what `set_dir` said, else $XDG_CACHE_HOME/treadle/hub, else ~/.cache/treadle/hub."""
    return _folder or os.path.join(_get_torch_home(), "hub")


def set_dir(d: str | os.PathLike[str]) -> None:
    """The folder in which downloads are kept from now on."""
    global _folder
    _folder = os.path.expanduser(os.fspath(d))


def download_url_to_file(url: str, dst: str | os.PathLike[str], hash_prefix: str | None = None, progress: bool = True) -> None:
    """Fetch `url` into the file `dst`, which appears only when it is complete.

    RuntimeError when the SHA-256 of the content does not begin with `hash_prefix`; urllib's errors when the URL cannot be read.
    """
    path = os.path.expanduser(os.fspath(dst))
    temporary = f"{path}.{secrets.token_hex(4)}.partial"
    digest, received = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "treadle.hub"})
        with urllib.request.urlopen(request) as source, open(temporary, "xb") as file:
            while block := source.read(_CHUNK):
                file.write(block)
                digest.update(block)
                received += len(block)
        if progress:
            print(f"{url}: {received / 1e6:.1f} MB", file=sys.stderr)
        if hash_prefix is not None and not digest.hexdigest().startswith(hash_prefix):
            raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "{digest.hexdigest()}")')
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def load_state_dict_from_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True,
                             check_hash: bool = False, file_name: str | None = None, weights_only: bool = True) -> Any:
    """`treadle.load` of the file at `url`, downloaded once into `model_dir` (get_dir()/checkpoints).

    With `check_hash`, the file's name must end as in `name-<sha256 prefix>.pth`. Only weights are loaded unless told otherwise, which
    PyTorch 2.13 does not insist on.
    """
    folder = model_dir or os.path.join(get_dir(), "checkpoints")
    os.makedirs(folder, exist_ok=True)
    name = file_name or os.path.basename(urlparse(url).path)
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        found = HASH_REGEX.search(name) if check_hash else None
        download_url_to_file(url, path, found.group(1) if found else None, progress)
    return _load_file(path, map_location, weights_only=weights_only)


def load(repo_or_dir: str, model: str, *args: Any, source: str = "github", **kwargs: Any) -> Any:
    """With source="local": the entry point `model` of the folder's hubconf.py, called with the other arguments.

    Repositories on GitHub hold programs that import PyTorch: NotImplementedError.
    """
    if source != "local":
        raise NotImplementedError(f"hub.load: source={source!r} is not supported, only source='local'; clone {repo_or_dir!r} first")
    import importlib.util
    spec = importlib.util.spec_from_file_location("hubconf", os.path.join(repo_or_dir, "hubconf.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, repo_or_dir)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(repo_or_dir)
    if not callable(getattr(module, model, None)):
        raise RuntimeError(f"Cannot find callable {model} in hubconf")
    return getattr(module, model)(*args, **kwargs)
