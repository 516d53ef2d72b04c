"""feedbus 0.1, the version of systems that are upgraded.

tests/data/feedbus-0.1.tar.xz is its package: `git archive 69f69b0 feedbus | xz -9`.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / "data" / "feedbus-0.1.tar.xz"


def unpack(folder: Path) -> Path:
    """Unpack feedbus 0.1 into a folder; return what to put on PYTHONPATH."""
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, as Debian 12 has it, knows no filters yet.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder / "feedbus-0.1")
    return folder / "feedbus-0.1"
