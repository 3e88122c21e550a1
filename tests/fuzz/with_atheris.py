"""Fuzz one target with atheris:  python -m tests.fuzz.with_atheris TARGET SECONDS DIR

Coverage guides the mutations.  The seeds go to a corpus in DIR, and so does the input of a finding.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stacker"]):
    from tests.fuzz import targets
from tests.fuzz.bounds import bounded


def main() -> None:
    """Fuzz until the time is over; atheris ends the process."""
    name, seconds, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    (target,) = (each for each in targets.TARGETS if each.name == name)
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    tokens = directory / "tokens"
    words = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.tokens)
    tokens.write_text("".join(f'"{word}"\n' for word in words))
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={directory}/",
        *([f"-dict={tokens}"] if target.tokens else []),
        f"-timeout={1 << 20}",  # seconds, also those in which a virtual machine stands still
        "-handle_xfsz=0",  # Python ignores SIGXFSZ, and a write past RLIMIT_FSIZE fails with EFBIG
        "-rss_limit_mb=0",
        "-max_len=65536",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], bounded(target))
    atheris.Fuzz()


main()
