"""Pickles of arrays: what numpy writes is read bit by bit, and nothing in a file is run."""

import collections
import datetime
import pickle

import numpy as np
import pytest
import torch

from freqfusion.safety import read_checkpoint
from freqfusion.tools._convert.files import read

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "weight": RANDOM.normal(size=(2, 3, 4)).astype(np.float32),
    "columns first": np.asfortranarray(RANDOM.normal(size=(3, 5))),
    "half": RANDOM.normal(size=7).astype(np.float16),
    "one number": np.array(12, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.uint8),
    "flags": np.array([True, False]),
    "part": np.arange(12, dtype=np.int32).reshape(3, 4)[:, 1:3],
}


def written(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_every_protocol(protocol, tmp_path):
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "somebody", "steps": [1, 2]}
    found = read_checkpoint(written(tmp_path / "in.pkl", content, protocol))
    assert (found["__author__"], found["steps"]) == ("somebody", [1, 2])
    assert list(found["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert torch.equal(found["model"][name], torch.from_numpy(array.copy())), name
        assert found["model"][name].numpy().dtype == array.dtype
        found["model"][name].zero_()  # writable memory of its own


def test_numbers_of_numpy_and_of_other_machines(tmp_path):
    content = {"epoch": np.int64(3), "rate": np.float32(0.5), "a": np.arange(3, dtype=">f4")}
    found = read_checkpoint(written(tmp_path / "in.pkl", content))
    assert (found["epoch"], found["rate"]) == (3, 0.5)
    assert found["a"].tolist() == [0, 1, 2]


def test_pickles_of_python_2(tmp_path):
    """{"a": array([1.5, -2], float32)} as Python 2 wrote it, with its bytes as a text."""
    raw = np.array([1.5, -2], dtype="<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + raw + b"tb"
    )
    (tmp_path / "in.pkl").write_bytes(b"\x80\x02}U\x01a" + array + b"s.")
    assert read_checkpoint(tmp_path / "in.pkl")["a"].tolist() == [1.5, -2]


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Encoded:
    """Bytes through a codec of its choice."""

    def __reduce__(self):
        import _codecs

        return _codecs.encode, ("a", "rot13")


class Outside:
    """Asks for something that is not in the file."""


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return "it" if isinstance(item, Outside) else None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (datetime.date(2024, 1, 1), r"holds datetime\.date, and only arrays of numbers"),
        (np.array([{}, None], dtype=object), "has arrays of 'O8', and only numbers"),
        (np.zeros(2, dtype=[("a", "f4")]), "has arrays of 'V4', and only numbers"),
        (np.array(["text"]), "has arrays of 'U4', and only numbers"),
        (Encoded(), "the encoding 'rot13'; only latin1"),
        (torch.zeros(1), r"holds torch\._utils\._rebuild_tensor_v2, and only arrays"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_anything_else_is_refused(content, message, tmp_path):
    path = written(tmp_path / "in.pkl", {"model": {"sem_seg_head.a": content}})
    with pytest.raises(ValueError, match=message):
        read(path)


def test_nothing_in_a_file_is_run(tmp_path):
    path = written(tmp_path / "in.pkl", {"model": Touch(tmp_path / "touched")})
    with pytest.raises(ValueError, match=r"holds _?io\.open, and only arrays"):
        read(path)
    assert not (tmp_path / "touched").exists()
    pickle.loads(path.read_bytes())  # the usual way runs it
    assert (tmp_path / "touched").exists()


def test_objects_outside_of_the_file(tmp_path):
    with (tmp_path / "in.pkl").open("wb") as file:
        Pickler(file).dump({"a": Outside()})
    with pytest.raises(ValueError, match="refers to objects outside"):
        read_checkpoint(tmp_path / "in.pkl")


RECORDS = b"cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01|N(U\x01atN\x8a\x00K\x00K\x00tb."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"not a pickle", "no checkpoint of a kind that is known"),
        (b"(not a pickle", "no pickled checkpoint, or is damaged"),
        (pickle.dumps(ARRAYS)[:-40], "no pickled checkpoint, or is damaged"),
        (b"cnumpy\nndarray\n)R.", "arrays without a type"),
        (b"cnumpy\nndarray\n.", "ndarray is no value"),
        (b"cnumpy.core.multiarray\nscalar\nNU\x01a\x86R.", "arrays without a type"),
        (RECORDS, "has arrays of records"),
        (b"]2a.", "holds itself"),
        (b"](K\x01K\x02e\x94h\x000a.", "damaged"),
    ],
)
def test_damaged_pickles(data, message, tmp_path):
    (tmp_path / "in.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "in.pkl")


def test_a_list_that_holds_itself(tmp_path):
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="holds itself"):
        read_checkpoint(written(tmp_path / "in.pkl", endless))


def test_an_archive_of_torch_under_the_name_of_a_pickle(tmp_path):
    weights = {"sem_seg_head.a": torch.arange(3)}
    torch.save({"model": weights, "iteration": 7}, tmp_path / "in.pkl")
    assert torch.equal(read(tmp_path / "in.pkl")["sem_seg_head.a"], torch.arange(3))


def test_pickles_that_hold_no_weights(tmp_path):
    with pytest.raises(ValueError, match="holds no state dict"):
        read(written(tmp_path / "in.pkl", [1, 2]))
    content = {"model": {"sem_seg_head.a": "text"}}
    with pytest.raises(ValueError, match=r"holds a str under 'sem_seg_head\.a'"):
        read(written(tmp_path / "in.pkl", content))
