"""utils.tensorboard: event files, read back by an independent decoder of Protocol Buffers."""
from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.utils.tensorboard import SummaryWriter
from treadle.utils.tensorboard.records import crc32c, png

descriptor_pb2: Any = pytest.importorskip("google.protobuf.descriptor_pb2")
MESSAGES = {
    "Event": "1 wall_time double, 2 step int64, 3 file_version string, 5 summary Summary", "Summary": "1 value *Value",
    "Value": "1 tag string, 2 simple_value float, 4 image Image, 5 histo Histogram, 8 tensor Tensor, 9 metadata Metadata",
    "Image": "1 height int32, 2 width int32, 3 colorspace int32, 4 encoded bytes",
    "Histogram": "1 min double, 2 max double, 3 num double, 4 sum double, 5 squares double, 6 limit *double, 7 bucket *double",
    "Tensor": "1 dtype int32, 2 shape Shape, 6 double_val *double, 8 string_val *bytes", "Shape": "2 dim *Dim", "Dim": "1 size int64",
    "Metadata": "1 plugin Plugin, 4 data_class int32", "Plugin": "1 name string",
}


def event_class() -> Any:
    from google.protobuf import descriptor_pool, message_factory
    file = descriptor_pb2.FileDescriptorProto(name="events.proto", package="t", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(", "):
            number, label, kind = text.split()
            made = message.field.add(name=label, number=int(number), label=3 if kind[0] == "*" else 1)
            kind = kind.lstrip("*")
            if kind in MESSAGES:
                made.type, made.type_name = 11, f".t.{kind}"
            else:
                made.type = {"double": 1, "float": 2, "int64": 3, "int32": 5, "string": 9, "bytes": 12}[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def read(folder: Path) -> list[Any]:
    path, = folder.glob("events.out.tfevents.*")
    data, found, make = path.read_bytes(), [], event_class()
    while data:
        (length,), body = struct.unpack("<Q", data[:8]), data[12:]
        for part, given in ((data[:8], data[8:12]), (body[:length], body[length:length + 4])):
            crc = crc32c(part)
            assert struct.unpack("<I", given)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        found.append(make.FromString(body[:length]))
        data = body[length + 4:]
    return found


def test_checksums() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(b"") == 0


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    weights = treadle.tensor([-1.0, 0.0, 0.5, 0.5, 2.0])
    with SummaryWriter(tmp_path / "run") as writer:
        for step in range(3):
            writer.add_scalar("loss/train", treadle.tensor(step / 2, requires_grad=True), step, walltime=100.0 + step)
        writer.add_histogram("weights", weights, 7)
        writer.add_histogram("even", weights.numpy(), bins=3)
        writer.add_text("note", "**bold**", 1)
        writer.add_scalar("fine", 0.1, new_style=True, double_precision=True)
        writer.flush()
        assert writer.get_logdir() == str(tmp_path / "run")
        with pytest.raises(ValueError, match="single number"):
            writer.add_scalar("loss", weights)
    first, *events = read(tmp_path / "run")
    assert first.file_version == "brain.Event:2"
    values = [e.summary.value[0] for e in events]
    assert [(e.step, e.wall_time, v.tag, v.simple_value) for e, v in zip(events[:3], values, strict=False)] == [
        (i, 100.0 + i, "loss/train", i / 2) for i in range(3)]
    histo = values[3].histo
    assert (histo.min, histo.max, histo.num, histo.sum, histo.squares) == (-1.0, 2.0, 5.0, 2.0, 5.5) and events[3].step == 7
    assert sum(histo.bucket) == 5 and len(histo.bucket) == len(histo.limit) and histo.bucket[0] == 0
    assert histo.limit[0] <= -1 < histo.limit[1] and histo.limit[-2] <= 2 < histo.limit[-1]
    assert list(values[4].histo.limit) == [-1.0, 0.0, 1.0, 2.0] and list(values[4].histo.bucket) == [0, 1, 3, 1]
    assert values[5].tag == "note/text_summary" and values[5].tensor.string_val[0] == b"**bold**"
    assert values[5].metadata.plugin.name == "text" and values[5].tensor.dtype == 7 and values[5].tensor.shape.dim[0].size == 1
    assert list(values[6].tensor.double_val) == [0.1] and values[6].metadata.plugin.name == "scalars"


def test_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chw, gray = rng.random((3, 4, 5)), rng.integers(0, 256, (4, 5)).astype(np.uint8)
    with SummaryWriter(tmp_path) as writer:
        writer.add_image("float", treadle.from_numpy(chw))
        writer.add_image("gray", gray, dataformats="HW")
        writer.add_images("many", np.stack([chw] * 10))
        with pytest.raises(ValueError, match="does not name"):
            writer.add_image("wrong", gray)
    images = [e.summary.value[0].image for e in read(tmp_path)[1:]]
    assert [(i.height, i.width, i.colorspace) for i in images] == [(4, 5, 3), (4, 5, 3), (8, 40, 3)]
    image = pytest.importorskip("PIL.Image")
    shown = [np.asarray(image.open(io.BytesIO(i.encoded))) for i in images]
    assert np.array_equal(shown[0], (chw.transpose(1, 2, 0).astype(np.float32) * 255).astype(np.uint8))
    assert np.array_equal(shown[1], np.repeat(gray[..., None], 3, 2))
    assert np.array_equal(shown[2][4:, 5:10], shown[0]) and not shown[2][4:, 10:].any()
    for channels in (1, 2, 4):
        pixels = rng.integers(0, 256, (2, 3, channels)).astype(np.uint8)
        assert np.array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))).reshape(pixels.shape), pixels)


def test_several_curves_graphs_and_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer = SummaryWriter(comment="_x")
    assert writer.log_dir.startswith("runs") and writer.log_dir.endswith("_x")
    writer.add_scalars("losses", {"train": 1.0, "test": treadle.tensor(2.0)}, 4)
    writer.add_graph(treadle.nn.Linear(2, 3), treadle.ones(1, 2))
    writer.add_hparams({"lr": 0.1, "wide": True}, {"accuracy": 0.9}, run_name="last")
    writer.close()
    folder = Path(writer.log_dir)
    assert [e.summary.value[0].simple_value for part in ("train", "test") for e in read(folder / f"losses_{part}")[1:]] == [1.0, 2.0]
    assert b"treadle.linear" in read(folder)[1].summary.value[0].tensor.string_val[0]
    text, number = read(folder / "last")[1:]
    assert b"| lr | 0.1 |" in text.summary.value[0].tensor.string_val[0] and number.summary.value[0].tag == "accuracy"
    writer.add_scalar("late", 1.0)
    writer.close()
    assert len(list(folder.glob("events*"))) == 2
