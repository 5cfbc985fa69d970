"""Files that are there whole or not at all, also on a full disk."""

from pathlib import Path

import pytest

from annotation.whole_files import write_whole
from tests.disk import no_room_for


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def test_what_is_written_is_all_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "note.json"
    write_whole(file, "a longer first text\n")
    write_whole(file, "ö\u2028\n")
    assert file.read_bytes() == "ö\u2028\n".encode()
    assert names(tmp_path) == ["note.json"]


def test_a_full_disk_leaves_what_was_there_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "note.json"
    write_whole(file, "kept")
    with no_room_for(1000), pytest.raises(OSError, match="too large"):
        write_whole(file, "x" * 5000)
    assert file.read_text() == "kept"
    assert names(tmp_path) == ["note.json"]


def test_a_text_that_is_none_leaves_no_draft(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "note.json", "\ud800")
    assert names(tmp_path) == []
