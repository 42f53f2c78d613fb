"""What one run of the platform is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """The choices of one ``trellis up``."""

    data_dir: Path
    host: str
    port: int
    procfile: Path
    env: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where a person on this machine finds the platform."""
        local = self.host in {"127.0.0.1", "0.0.0.0", "::", "::1"}  # noqa: S104 -- compared only
        return f"http://{'localhost' if local else self.host}:{self.port}"
