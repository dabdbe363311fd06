"""Zip archives whose entries lie in the file as they are, one behind another.

``torch.save`` writes such ones. Everything that could take more than is there, or go elsewhere, is
refused: compressed entries (a bomb is one), entries that overlap, names that lead out of the
archive.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from typing import BinaryIO, NamedTuple

from freqfusion.safety.errors import DamagedError, RefusedError

_MOST_ENTRIES = 200_000
_LOCAL_HEADER, _END_RECORD = 30, 22
_ENCRYPTED = 0x1
_BLOCK = 1 << 20


class Entry(NamedTuple):
    """Where the content of an entry is, and its checksum; 0: without one."""

    start: int
    size: int
    checksum: int


def read_entries(file: BinaryIO) -> dict[str, Entry]:
    """Every entry of an archive by its name, without the folder that all of them are in.

    Raises:
        RefusedError: for an archive that ``torch.save`` would not write.
        DamagedError: for one that is cut off or contradicts itself.
    """
    size = file.seek(0, os.SEEK_END)
    _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            infos, directory = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise DamagedError(f"is a damaged archive: {error}") from error
    if len(infos) > _MOST_ENTRIES:
        raise RefusedError(f"is an archive of {len(infos)} entries; at most {_MOST_ENTRIES}")
    entries: dict[str, Entry] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check_entry(info)
        if info.header_offset < end:
            raise RefusedError(f"is an archive in which {_shown(info)} lies over another entry")
        start = info.header_offset + _header_length(file, info)
        end = start + info.file_size
        if end > directory:
            raise DamagedError(f"is a damaged archive: {_shown(info)} goes beyond its end")
        name = info.filename.partition("/")[2]
        if not name or name in entries:
            raise RefusedError(f"is an archive with {_shown(info)} twice, or in no folder")
        entries[name] = Entry(start, info.file_size, info.CRC)
    folders = {info.filename.partition("/")[0] for info in infos}
    if len(folders) > 1:
        raise RefusedError("is an archive of several folders, and torch.save makes one")
    return entries


def check_contents(file: BinaryIO, entries: dict[str, Entry]) -> None:
    """DamagedError for an entry that is not what was written; PyTorch does not look."""
    for name, entry in entries.items():
        file.seek(entry.start)
        found, left = 0, entry.size
        while left and (block := file.read(min(left, _BLOCK))):
            found, left = zlib.crc32(block, found), left - len(block)
        if left or (entry.checksum and found != entry.checksum):
            raise DamagedError(f"is damaged: {name} is not what was written (checksum)")


def list_names(file: BinaryIO) -> list[str]:
    """Names of an archive's entries, to tell what it is; none where it is damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError):
        return []


def _check_end(file: BinaryIO, size: int) -> None:
    """Other readers might find another list of entries, where there can be two."""
    file.seek(max(0, size - _END_RECORD))
    if not file.read(4).startswith(b"PK\x05\x06"):
        raise DamagedError("is an archive that is cut off, or has something behind its end")


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or "\\" in name or ":" in parts[0] or {"", ".", ".."} & set(parts):
        raise RefusedError(f"is an archive with the name {_shown(info)}, which leads elsewhere")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise RefusedError(
            f"is an archive in which {_shown(info)} has {info.compress_size} bytes and announces"
            f" {info.file_size}; torch.save compresses nothing"
        )
    if info.flag_bits & _ENCRYPTED:
        raise RefusedError(f"is an archive in which {_shown(info)} is encrypted")


def _header_length(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Of the header before an entry, which has its name once more."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise DamagedError(f"is a damaged archive: {_shown(info)} is not where it should be")
    name, extra = struct.unpack("<HH", header[26:30])
    if file.read(name) != info.orig_filename.encode("utf-8", "surrogateescape"):
        raise RefusedError(f"is an archive in which {_shown(info)} has two names")
    return _LOCAL_HEADER + int(name) + int(extra)


def _shown(info: zipfile.ZipInfo) -> str:
    name = ascii(info.orig_filename)
    return name if len(name) <= 80 else f"{name[:77]}...'"
