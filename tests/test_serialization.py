"""save and load: round trips, damaged and hostile files; the oracle tests exchange files with PyTorch."""
from __future__ import annotations

import collections
import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.serialization import add_safe_globals, clear_safe_globals, load, save


def sample() -> Any:
    w = treadle.arange(6).float().view(2, 3)
    return collections.OrderedDict(
        w=w, tied=w, transposed=w.t(), parameter=nn.Parameter(w), n=1, f=1.5, s="x", none=None, nested=[1, (2, w[1])],
        d={"q": treadle.tensor(3)},
        bf=w.bfloat16(), half=w.half(), double=w.double(), i=w.int(), u=w.to(treadle.uint8), b=w > 2, empty=treadle.zeros(0, 3),
        raw=b"\x00\xff", big=2**70, yes=True)


def same(a: Any, b: Any) -> None:
    if isinstance(a, treadle.Tensor):
        assert isinstance(b, treadle.Tensor) and a.dtype is b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b and type(a) is type(b)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save(sample(), path)
    found = load(path)
    same(sample(), found)
    assert isinstance(found["parameter"], nn.Parameter) and found["parameter"].requires_grad
    with treadle.no_grad():
        found["w"].fill_(9)
    assert found["tied"].numpy().min() == 9  # tensors saved with the same memory share it again
    same(sample(), load(path, mmap=True))
    assert os.listdir(tmp_path) == ["x.pt"]


def test_file_objects_and_equal_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    save(sample(), first)
    save(sample(), second)
    assert first.getvalue() == second.getvalue()
    first.seek(0)
    same(sample(), load(first))
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert (info.header_offset + 30 + len(info.filename) + len(info.extra)) % 64 == 0


def test_modules_and_optimizers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 2))
    optimizer = treadle.optim.Adam(model.parameters())
    model(treadle.ones(4, 2))[0].sum().backward()
    optimizer.step()
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "c.pt")
    found = load(tmp_path / "c.pt")
    same(dict(model.state_dict()), dict(found["model"]))
    assert found["model"]._metadata == model.state_dict()._metadata
    optimizer.load_state_dict(found["optimizer"])
    assert found["optimizer"]["state"][0]["step"] == 1.0
    save(model, tmp_path / "m.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"Unsupported global: treadle\.nn\.container\.Sequential"):
        load(tmp_path / "m.pt")
    same(dict(model.state_dict()), dict(load(tmp_path / "m.pt", weights_only=False).state_dict()))
    try:
        add_safe_globals([nn.Sequential, nn.Linear, nn.LSTM])
        same(dict(model.state_dict()), dict(load(tmp_path / "m.pt").state_dict()))
    finally:
        clear_safe_globals()


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save({"a": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save({"a": treadle.zeros(3), "f": lambda: 0}, path)
    assert load(path) == {"a": 1} and os.listdir(tmp_path) == ["x.pt"]
    with pytest.raises(RuntimeError, match=r"Parent directory .* does not exist"):
        save(1, tmp_path / "no" / "x.pt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pt")


def test_safetensors(tmp_path: Path) -> None:
    import safetensors.numpy

    w = treadle.arange(6).float().view(2, 3)
    tensors = {"a": w, "t": w.t(), "h": w.half(), "e": treadle.zeros(0, 2), "s": treadle.tensor(2), "b": w > 1}
    path = tmp_path / "x.safetensors"
    save(tensors, path)
    theirs = safetensors.numpy.load_file(path)
    assert sorted(theirs) == sorted(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(theirs[key], value.numpy())
    tensors["bf"] = w.bfloat16()
    save(tensors, path, metadata={"by": "test"})
    for found in (load(path), load(path, mmap=True)):
        same(dict(sorted(tensors.items())), dict(sorted(found.items())))
    safetensors.numpy.save_file({"x": np.arange(4.0)}, tmp_path / "y.safetensors")
    assert load(tmp_path / "y.safetensors")["x"].numpy().tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="holds tensors only, but 'a' is int"):
        save({"a": 3}, path)
    with pytest.raises(TypeError, match="holds a dict of tensors"):
        save([w], path)


# Hostile and damaged files


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: {"a": [e]}])
def test_no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    monkeypatch.chdir(tmp_path)
    save({"a": 1}, "x.pt")
    with zipfile.ZipFile("x.pt") as good, zipfile.ZipFile("bad.pt", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, pickle.dumps(wrap(Evil()), 2) if name.endswith("data.pkl") else good.read(name))
    with pytest.raises(pickle.UnpicklingError, match=r"Unsupported global: (posix|nt)\.mkdir is not allowed"):
        load("bad.pt")
    Path("raw.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RuntimeError, match="in no format that load knows"):
        load("raw.pt")
    assert not os.path.exists("pwned")


def zip_with(pickled: bytes, data: bytes = b"\0" * 24) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
    buffer.seek(0)
    return buffer


def tensor_pickle(size: tuple, stride: tuple, offset: int = 0, numel: int = 6, end: bytes = b".") -> bytes:
    """The pickle of one float32 tensor with any geometry."""
    def raw(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    storage = b"(" + raw("storage") + b"ctorch\nFloatStorage\n" + raw("0") + raw("cpu") + raw(numel) + b"tQ"
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + raw(offset) + raw(size) + raw(stride)
            + b"\x89ccollections\nOrderedDict\n)RtR" + end)


def test_tensors_stay_inside_their_storage() -> None:
    assert load(zip_with(tensor_pickle((2, 3), (3, 1)))).shape == (2, 3)
    assert load(zip_with(tensor_pickle((5,), (0,)))).shape == (5,)
    for bad in ((2, 4), (4, 1)), ((2,), (-1,)), ((-2,), (1,)), ((2, 2), (1,)):
        with pytest.raises(RuntimeError, match="damaged file"):
            load(zip_with(tensor_pickle(*bad)))
    with pytest.raises(RuntimeError, match="does not fit its storage of 6 elements"):
        load(zip_with(tensor_pickle((3,), (1,), offset=4)))
    with pytest.raises(RuntimeError, match="should have 7 elements of float32 but has 24 bytes"):
        load(zip_with(tensor_pickle((3,), (1,), numel=7)))


def test_a_file_cannot_change_our_objects() -> None:
    # BUILD sets attributes of what a pickle has made; a tensor or dtype must not be within its reach.
    state = b"}" + pickle.dumps("_data", 2)[2:-1] + b"K\x01sb."
    with pytest.raises(pickle.UnpicklingError):
        load(zip_with(tensor_pickle((2, 3), (3, 1), end=state)))
    slots = b"N}" + pickle.dumps("itemsize", 2)[2:-1] + b"K\x01s\x86b."
    with pytest.raises(pickle.UnpicklingError):
        load(zip_with(b"\x80\x02ctorch\nfloat32\n" + slots))
    assert treadle.float32.itemsize == 4
    assert load(zip_with(b"\x80\x02ctorch\nfloat32\n.")) is treadle.float32


def test_damaged_files_give_clear_errors(tmp_path: Path) -> None:
    save(sample(), tmp_path / "x.pt")
    w = treadle.arange(6).float()
    save({"a": w, "b": w.half()}, tmp_path / "x.safetensors")
    rng = random.Random(0)
    for name in ("x.pt", "x.safetensors"):
        good = (tmp_path / name).read_bytes()
        for trial in range(150):
            bad = bytearray(good)
            if trial % 3 == 0:
                bad = bad[:rng.randrange(len(bad))]
            for _ in range(rng.choice([1, 5]) if bad else 0):
                bad[rng.randrange(min(len(bad), 800 if trial % 3 == 1 else len(bad)))] = rng.randrange(256)
            (tmp_path / f"bad_{name}").write_bytes(bad)
            try:
                load(tmp_path / f"bad_{name}")
            except (RuntimeError, pickle.UnpicklingError):
                continue
    damaged = bytearray((tmp_path / "x.pt").read_bytes())
    place = damaged.index(np.arange(6, dtype=np.float32).tobytes())
    damaged[place] ^= 1
    with pytest.raises(RuntimeError, match="its checksum is wrong"):
        load(io.BytesIO(damaged))


def test_map_location() -> None:
    buffer = io.BytesIO()
    save({"a": treadle.ones(2)}, buffer)
    for location in ("cpu", treadle.device("cpu"), {"cuda:0": "cpu"}, lambda tensor, place: tensor):
        buffer.seek(0)
        assert load(buffer, map_location=location)["a"].device.type == "cpu"
    cuda = zip_with(tensor_pickle((2,), (1,)).replace(b"cpu", b"cuda:0").replace(b"X\x03\x00\x00\x00cuda:0", b"X\x06\x00\x00\x00cuda:0"))
    assert load(cuda, map_location="cpu").shape == (2,)
    if not treadle.cuda.is_available():
        cuda.seek(0)
        with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA device"):
            load(cuda)


# Against PyTorch


@pytest.mark.oracle
@pytest.mark.parametrize("legacy", [False, True])
def test_reads_pytorch(tmp_path: Path, legacy: bool) -> None:
    import torch

    w = torch.arange(6.0).view(2, 3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(4, 5))
    optimizer = torch.optim.Adam(model.parameters())
    model(w)[0].sum().backward()
    optimizer.step()
    obj = {"model": model.state_dict(), "opt": optimizer.state_dict(), "view": w[1:], "t": w.t(),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "expanded": torch.ones(1).expand(5), "bf": w.bfloat16(),
        "param": torch.nn.Parameter(w), "i": w.int(), "size": w.shape, "dtype": torch.float16, "device": torch.device("cpu")}
    path = tmp_path / "x.pt"
    torch.save(obj, path, _use_new_zipfile_serialization=not legacy)
    found = load(path)
    assert found["size"] == (2, 3) and found["dtype"] is treadle.float16 and found["device"] == treadle.device("cpu")
    assert found["model"]._metadata == obj["model"]._metadata and isinstance(found["param"], nn.Parameter)
    for key in ("view", "t", "last", "expanded", "i"):
        np.testing.assert_array_equal(found[key].numpy(), obj[key].numpy())
    np.testing.assert_array_equal(found["bf"].float().numpy(), w.numpy())
    for name, value in obj["model"].items():
        np.testing.assert_array_equal(found["model"][name].numpy(), value.numpy())
    ours = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5))
    ours.load_state_dict(found["model"])
    treadle.optim.Adam(ours.parameters()).load_state_dict(found["opt"])
    data = path.read_bytes()
    for cut in range(1, len(data) - 1, max(1, len(data) // 60)):
        with pytest.raises((RuntimeError, pickle.UnpicklingError)):
            load(io.BytesIO(data[:cut]))


@pytest.mark.oracle
def test_pytorch_reads_ours(tmp_path: Path) -> None:
    import torch

    save(sample(), tmp_path / "x.pt")
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    assert isinstance(found["parameter"], torch.nn.Parameter) and found["bf"].dtype is torch.bfloat16
    assert found["w"].data_ptr() == found["tied"].data_ptr()
    for key, value in sample().items():
        if isinstance(value, treadle.Tensor):
            np.testing.assert_array_equal(found[key].detach().float().numpy(), value.detach().float().numpy())
        elif key not in ("nested", "d"):
            assert found[key] == value
    model, ours = torch.nn.LSTM(2, 3), nn.LSTM(2, 3)
    save(ours.state_dict(), tmp_path / "m.pt")
    model.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))


@pytest.mark.oracle
def test_safetensors_oracle(tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    save({"a": treadle.ones(2, 3).bfloat16()}, tmp_path / "x.safetensors")
    assert safetensors.torch.load_file(tmp_path / "x.safetensors")["a"].dtype is torch.bfloat16
    safetensors.torch.save_file({"b": torch.full((2,), 1.5, dtype=torch.bfloat16)}, tmp_path / "y.safetensors")
    assert load(tmp_path / "y.safetensors")["b"].float().numpy().tolist() == [1.5, 1.5]
