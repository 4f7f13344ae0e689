"""What one process counts of one kind, in the file that whoever is scraped reads.

It takes the place of prometheus_client's MmapedDict, and has its format. That one maps the file into memory, where a
full disk, or somebody who cuts the file, ends the process by a signal; and what is swept away it writes on for ever.
"""

import os
import struct
import time
from pathlib import Path


class CountFile:
    """Keeps every value in memory, too, and makes the file anew when it is not what it was. Not for several threads."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._path = Path(filename)
        if self._path.exists():
            # Of a process that had this number before.
            self._path = self._path.with_stem(f"{self._path.stem}-{time.time_ns()}")
        self._values: dict[str, tuple[float, float]] = {}
        self._places: dict[str, int] = {}
        self._file = -1
        self._size = 0

    def read_value(self, key: str) -> tuple[float, float]:
        """The value and its time."""
        return self._values.get(key, (0.0, 0.0))

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Raises OSError when it cannot be written; the value is kept, and goes along with the next one."""
        self._values[key] = value, timestamp
        if key in self._places and self._is_intact():
            os.pwrite(self._file, struct.pack("dd", value, timestamp), self._places[key])
        else:
            self._write_all()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._places = -1, {}

    def _is_intact(self) -> bool:
        status = os.fstat(self._file)
        return status.st_nlink > 0 and status.st_size == self._size

    def _write_all(self) -> None:
        self.close()
        content, places = bytearray(8), {}
        for key, value in self._values.items():
            text = key.encode()
            text += b" " * (8 - (len(text) + 4) % 8)
            content += struct.pack(f"i{len(text)}s", len(key.encode()), text)
            places[key] = len(content)
            content += struct.pack("dd", *value)
        struct.pack_into("i", content, 0, len(content))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it and then in its place: whoever reads finds a whole one.
        draft = self._path.with_suffix(".draft")
        draft.write_bytes(content)
        draft.replace(self._path)
        self._file, self._size, self._places = os.open(self._path, os.O_WRONLY), len(content), places
