from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tuner.errors import BadInput
from tuner.models.headers import read_header, unwritten
from tuner.models.tensors import TORCH_DTYPES, SafetensorsFile

MIB = 1024**2


def write(file: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def entry(start: int, stop: int, dtype: object = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    floats = [dtype for dtype in TORCH_DTYPES.values() if dtype.is_floating_point]
    made = {f"{dtype}": torch.randn(3, 5).to(dtype) for dtype in floats}
    return {**made, "scalar": torch.tensor(0.5), "none": torch.zeros(0, 4), "counts": torch.arange(7)}


def test_every_tensor_is_found_where_safetensors_finds_it(tensors, tmp_path):
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert file.header.metadata == {"format": "pt"}
    assert file.entries.keys() == tensors.keys()
    with safe_open(file.path, framework="pt") as theirs:
        for name, expected in tensors.items():
            assert torch.equal(
                file.read(name, expected.dtype).view(-1).view(torch.uint8),
                theirs.get_tensor(name).view(-1).view(torch.uint8),
            )
            assert b"".join(file.pieces(name)) == bytes(expected.view(-1).view(torch.uint8).tolist())


def test_a_tensor_is_read_in_the_dtype_that_is_wanted(tensors, tmp_path):
    big = torch.randn(3 * MIB, dtype=torch.float64)
    save_file({**tensors, "big": big}, tmp_path / "a.safetensors")
    file = SafetensorsFile(tmp_path / "a.safetensors")
    for name in ("torch.bfloat16", "torch.float8_e4m3fn", "scalar", "none", "big"):
        expected = {**tensors, "big": big}[name].to(torch.float32)
        assert torch.equal(file.read(name, torch.float32), expected)


BROKEN = {
    "nothing": b"",
    "half a length": b"\x01\x02\x03",
    "a length beyond the file": struct.pack("<Q", 10**6) + b"{}",
    "a length beyond any file": b"\xff" * 8 + b"{}",
}
WRONG = {
    "no JSON": (b"{", b""),
    "no text": (b"\xff\xfe{}", b""),
    "a list": ([], b""),
    "depth without end": (b"[" * 100_000, b""),
    "a name twice": (b'{"a": 1, "a": 2}', b""),
    "metadata that is a number": ({"__metadata__": 3}, b""),
    "a dtype that does not exist": ({"a": entry(0, 4, "F7")}, b"1234"),
    "a dtype that is a number": ({"a": entry(0, 4, 32)}, b"1234"),
    "a shape that is text": ({"a": entry(0, 4, shape="1")}, b"1234"),
    "a shape of true": ({"a": entry(0, 4, shape=[True])}, b"1234"),
    "a negative size": ({"a": entry(0, 4, shape=[-1, -1])}, b"1234"),
    "fewer bytes than the shape takes": ({"a": entry(0, 4, shape=[2])}, b"1234"),
    "a position before the first": ({"a": entry(-4, 0)}, b"1234"),
    "a gap": ({"a": entry(0, 4), "b": entry(8, 12)}, b"123456789012"),
    "an overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456"),
    "a file that ends early": ({"a": entry(0, 4)}, b"12"),
    "bytes behind the last": ({"a": entry(0, 4)}, b"123456"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, b"1234"),
}


@pytest.mark.parametrize("case", [*BROKEN, *WRONG])
def test_a_broken_file_is_refused_in_one_line(case, tmp_path):
    file = tmp_path / "part" / "x.safetensors"
    file.parent.mkdir()
    if case in BROKEN:
        file.write_bytes(BROKEN[case])
    else:
        write(file, *WRONG[case])
    with pytest.raises(BadInput) as refusal:
        read_header(file)
    assert "x.safetensors" in str(refusal.value) and "\n" not in str(refusal.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_at_all_end_in_anything_but_a_clear_refusal(tmp_path, noise, at):
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(4, 4), "b": torch.ones(3)}, file)
    content = file.read_bytes()
    file.write_bytes(content[:at] + noise + content[at + len(noise) :])
    try:
        read_header(file)
    except BadInput as refusal:
        assert "\n" not in str(refusal)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(BadInput, match=r"x\.safetensors"):
        read_header(tmp_path / "x.safetensors")


def test_a_tensor_that_was_never_written_is_told_from_one_of_zeros(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(MIB), "b": torch.ones(MIB), "c": torch.ones(300, 300)}, file)
    header = read_header(file)
    assert list(unwritten(header)) == []
    content = file.read_bytes()
    for name in ("a", "b", "c"):
        lost = header.entries[name]
        with file.open("wb") as stream:
            stream.write(content[: lost.start])
            stream.seek(lost.stop)
            stream.write(content[lost.stop :])
            stream.truncate(len(content))
        if file.stat().st_blocks * 512 >= len(content):
            pytest.skip("this disk keeps no sparse files")
        assert list(unwritten(header)) == [name]
