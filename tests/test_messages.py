"""What commands say and leave out: deprecations of other packages, and bars in log files."""

import os
import subprocess
import sys
import warnings

import pytest

from freqfusion.data.workers import progress
from freqfusion.messages import hide_deprecations

WARN = """
import warnings, sys, subprocess
from freqfusion.messages import hide_deprecations
hide_deprecations(sys.argv[1:])
warnings.warn("old", FutureWarning)
warnings.warn("torch.meshgrid: in an upcoming release", UserWarning)
warnings.warn("look", UserWarning)
code = "import warnings; warnings.warn('inner', FutureWarning)"
subprocess.run([sys.executable, "-c", code])
"""


def warned(*arguments, flags=()):
    """Which warnings a command and a process that it starts show."""
    command = [sys.executable, *flags, "-c", WARN, *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    return {word for word in ("old", "meshgrid", "look", "inner") if f": {word}" in answer.stderr
            or f".{word}" in answer.stderr}  # fmt: skip


def test_deprecations_are_hidden():
    assert warned("--config-file", "x") == {"look"}
    assert warned("--debug") == {"old", "meshgrid", "look", "inner"}


def test_the_user_decides():
    """Nothing is hidden where ``python -W`` says what to show."""
    assert warned(flags=["-W", "default"]) == {"old", "meshgrid", "look", "inner"}


def test_a_command_that_another_one_starts_hides_as_much():
    """The filters that it inherits are ours, no choice of the user."""
    show = "import logging; print(logging.getLogger('torch.fx._symbolic_trace').level)"
    hide = f"from freqfusion.messages import hide_deprecations; hide_deprecations([]); {show}"
    outer = f"{hide}; import subprocess, sys; subprocess.run([sys.executable, '-c', {hide!r}])"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    command = [sys.executable, "-u", "-c", outer]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    assert answer.stdout.split() == ["40", "40"]


@pytest.mark.parametrize("count", [1, 2000])
def test_progress_is_one_line_in_a_file(count, capsys):
    assert list(progress(range(count), "drawing", "image")) == list(range(count))
    captured = capsys.readouterr()
    assert captured.out == ""
    word = "image" if count == 1 else "images"
    assert captured.err.startswith(f"drawing: {count} {word} in ")
    assert captured.err.count("\n") == 1
    assert "\r" not in captured.err


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(iter(range(3)), "drawing", "image", total=3)) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_other_warnings_stay(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setenv("PYTHONWARNINGS", "")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        hide_deprecations([])
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("look", UserWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["look"]
