"""YAML as plain data: tags, aliases, sizes."""

import datetime
import time

import pytest

from freqfusion.safety.yaml_files import parse_yaml, read_text


def test_plain_data():
    text = "a: [1, 2.5, true, null, text]\nb: {c: 2024-01-02}\nd: !!str 3\ne: &x {f: 1}\ng: *x\n"
    found = parse_yaml(text, "a.yaml")
    assert found["a"] == [1, 2.5, True, None, "text"]
    assert found["b"] == {"c": datetime.date(2024, 1, 2)}
    assert (found["d"], found["g"]) == ("3", {"f": 1})
    assert parse_yaml("", "a.yaml") is None


@pytest.mark.parametrize(
    ("text", "tag", "line"),
    [
        ('a: 1\nb: !!python/object/apply:os.system ["touch {}"]\n', "object/apply:os.system", 2),
        ('a: !!python/object/new:os.system ["touch {}"]\n', "object/new:os.system", 1),
        ("a: !!python/name:os.system\n", "name:os.system", 1),
        ("a: !!python/module:os\n", "module:os", 1),
        ("a: !!python/tuple [1, 2]\n", "tuple", 1),
        ('? !!python/object/apply:os.system ["touch {}"]\n: 1\n', "object/apply:os.system", 1),
        ('a: 1\n<<: !!python/object/apply:os.system ["touch {}"]\n', "object/apply:os.system", 2),
        (
            '%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system ["touch {}"]\n',
            "object/apply:os.system",
            3,
        ),
        ('a: !<tag:yaml.org,2002:python/object/apply:os.system> ["touch {}"]', "object/apply", 1),
    ],
)
def test_tags(text, tag, line, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(ValueError, match=r"a\.yaml holds a YAML tag that would run code") as caught:
        parse_yaml(text.format(marker), "a.yaml")
    assert f"!!python/{tag}" in str(caught.value)
    assert f"in line {line}. " in str(caught.value)
    assert "--allow-unsafe-config" in str(caught.value)
    assert not marker.exists()


def test_tags_that_are_allowed(caplog):
    text = "a: !!python/tuple [1, 2]\nb: !!python/object/apply:eval ['1 + 1']\n"
    assert parse_yaml(text, "a.yaml", unsafe=True) == {"a": (1, 2), "b": 2}
    assert "the tag !!python/tuple runs code, as was allowed" in caplog.text


@pytest.mark.parametrize("unsafe", [False, True])
@pytest.mark.parametrize(
    "value", ["190:20:30", "-1:30", "1:30.5", "!!int 1:30", "!!float 1:30", "1" + ":1" * 500_000]
)
def test_numbers_to_base_60(value, unsafe):
    """Nobody means them, and Python takes a time for them that grows with their square."""
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a\.yaml, line 2: .* is a number to base 60"):
        parse_yaml(f"a: 1\nb: [{value}]\n", "a.yaml", unsafe=unsafe)
    assert time.process_time() - start < 10
    assert parse_yaml("a: '190:20:30'\nb: a:1:2\n", "a.yaml") == {"a": "190:20:30", "b": "a:1:2"}


@pytest.mark.parametrize("unsafe", [False, True])
def test_laughs(unsafe):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a\.yaml unfolds to more than 200000 parts"):
        parse_yaml("\n".join(lines), "a.yaml", unsafe=unsafe)
    merged = [
        "a0: &a0 {x: 1}",
        *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60)),
    ]
    with pytest.raises(ValueError, match="unfolds to more than"):
        parse_yaml("\n".join(merged), "a.yaml")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]\n", "has a container that holds itself"),
        ("[" * 5000, "a.yaml"),
        ("[" * 300 + "]" * 300, "more than 100 deep|nested too deep"),
        ("a: 2024-99-99\n", r"a\.yaml has a value that is none"),
        (f"a: {'9' * 5000}\n", r"a\.yaml has a value that is none"),
        ("a: !mine 1\n", "!mine"),
        ("a: \0\n", "this is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "this is not valid YAML"),
        ("? [a]\n: 1\n", "this is not valid YAML|a.yaml"),
    ],
)
def test_other_tricks(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text, "a.yaml")


def test_files(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: 1\n")
    assert read_text(tmp_path / "a.yaml") == "a: 1\n"
    (tmp_path / "large.yaml").write_bytes(b"a" * (2 << 20))
    with pytest.raises(ValueError, match=r"large\.yaml is larger than 1048576 bytes"):
        read_text(tmp_path / "large.yaml")
    with pytest.raises(ValueError, match="is no regular file"):
        read_text("/dev/zero")
