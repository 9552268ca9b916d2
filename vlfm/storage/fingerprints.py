"""The identity of what made a file: a hash of its settings, kept beside it and compared before it is used again."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlfm.errors import FingerprintMismatch


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The identity of what made a store: 16 hex digits of the SHA-256 of `settings` as canonical JSON."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_fingerprint(found: str | None, expected: str, store: Path, remedy: str) -> None:
    """Refuse a store made by other settings.

    Raises:
        FingerprintMismatch: naming the store, both fingerprints and the `remedy`.
    """
    if found != expected:
        raise FingerprintMismatch(
            f"{store} was made with other settings (fingerprint {found}, now {expected}). " + remedy
        )
