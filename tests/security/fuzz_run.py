"""The fuzzer itself, in a process of its own: `python -m security.fuzz_run TARGET CORPUS [options of libFuzzer]`.

atheris counts which branches an input takes, of the modules that are imported under its eyes only. The native parts
(msgspec, libsodium) are not instrumented: what leads there is.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kakuremichi", "security"]):
    from security.fuzz_targets import TARGETS


def main() -> None:
    program, name, corpus, *options = sys.argv
    target = TARGETS[name]
    # The seeds are made here, not by who starts us: some are signed for this hour.
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)

    def take(data: bytes) -> None:
        target.take(data)  # refused inputs are worth keeping as well, so its answer is not passed on

    atheris.Setup([program, *options, corpus], take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
