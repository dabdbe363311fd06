"""The instructions of a pickle, read one by one and no further than its bounds.

Every length is compared with what the file has left before memory is taken for it, and long bytes,
which are those of arrays, are passed over. Instructions of every protocol are known.
"""

from __future__ import annotations

import codecs
import os
import pickletools
from typing import Any, BinaryIO

from freqfusion.safety.errors import DamagedError, RefusedError
from freqfusion.safety.pickle_tree import Data

# Longer runs of bytes, and of text, are passed over.
_KEPT, _KEPT_TEXT, _LONGEST_NUMBER = 1024, 1 << 16, 512
_MOST_STEPS = 20_000_000
OPCODES: dict[bytes, str] = {
    opcode.code.encode("latin1"): opcode.name for opcode in pickletools.opcodes
}
_READERS = {opcode.name: opcode.arg.reader for opcode in pickletools.opcodes if opcode.arg}
# Bytes of the length, for what has its length before it.
_LENGTHS = {
    "BINSTRING": 4, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8, "BINUNICODE": 4,
    "BINUNICODE8": 8, "LONG4": 4, "SHORT_BINSTRING": 1, "SHORT_BINBYTES": 1,
    "SHORT_BINUNICODE": 1, "LONG1": 1,
}  # fmt: skip
# Whose argument is all that they put on the stack, with its length before it.
COUNTED = frozenset(_LENGTHS)


def damaged(what: str) -> DamagedError:
    """The error for what is no whole pickle."""
    return DamagedError(f"is no pickled checkpoint, or is damaged: {what}")


class Instructions:
    """Reads from where a file stands, and leaves it behind the last instruction.

    Args:
        file: To be read, with ``seek``.
        end: The pickle ends before this place.

    ``steps`` counts the instructions so far.
    """

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.steps = 0
        self._file, self._end = file, end

    def next(self) -> str:
        """The name of the next one; its argument is to be read before the one behind it.

        Raises:
            RefusedError: where there are too many.
            DamagedError: where there is none.
        """
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise RefusedError(f"has a pickle of more than {_MOST_STEPS} steps")
        code = self._file.read(1)
        if not code:
            raise damaged("it has no end")
        if code not in OPCODES:
            raise damaged(f"{code!r} is no instruction")
        return OPCODES[code]

    def check_end(self) -> None:
        """DamagedError where the pickle went on behind its end."""
        if self._file.tell() > self._end:
            raise damaged("it has no end")

    def argument(self, opcode: str) -> Any:
        """That of an instruction which is not one of ``COUNTED``; None where it has none."""
        if opcode == "STRING":
            return self._python_2_text()
        reader = _READERS.get(opcode)
        return None if reader is None else reader(self._file)

    def counted(self, opcode: str) -> Any:
        """That of one of ``COUNTED``: bytes, text or a number, or ``Data`` where it is long."""
        width = _LENGTHS[opcode]
        raw = self._file.read(width)
        length = int.from_bytes(raw, "little", signed=opcode in ("BINSTRING", "LONG4"))
        # Asking a file where it is takes time.
        if len(raw) == width and 0 <= length <= _LONGEST_NUMBER:
            return _short(opcode, self._file.read(length), length)
        start = self._file.tell()
        if len(raw) < width or not 0 <= length <= self._end - start:
            left = max(0, self._end - start)
            raise damaged(f"{length} bytes are announced, and {left} are left")
        text = "UNICODE" in opcode
        if opcode.startswith("LONG"):
            raise RefusedError(f"has a number of more than {_LONGEST_NUMBER} bytes")
        if length > (_KEPT_TEXT if text else _KEPT):
            self._file.seek(length, os.SEEK_CUR)
            return Data(start, length, text)
        return _short(opcode, self._file.read(length), length)

    def _python_2_text(self) -> str:
        """A literal on a line of its own; texts may be numbers of an array, a character each."""
        line = self._file.readline().strip()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
            raise damaged("a text without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _short(opcode: str, data: bytes, length: int) -> Any:
    """What bytes stand for that have been read."""
    if len(data) < length:
        raise damaged("it has no end")
    if "UNICODE" in opcode:
        return str(data, "utf-8", "surrogatepass")
    if opcode.startswith("LONG"):
        return int.from_bytes(data, "little", signed=True)
    return data.decode("latin1") if "STRING" in opcode else data
