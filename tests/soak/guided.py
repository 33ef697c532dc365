"""Mutated plans or mappings, guided by which branches of npas they reach: atheris, libFuzzer.

``pip install atheris``, then ``python -m tests.soak.guided plans [libFuzzer's options]``, such as
``-runs=100000`` or ``-max_total_time=600``. What reaches a new branch is kept in
build/soak-corpus, so that the next run goes on from it; what fails is written to the working
directory.
"""

import importlib
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

CORPUS = Path("build/soak-corpus")


def main(arguments: Sequence[str]) -> int:
    """Run the command; libFuzzer ends the process."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("python -m tests.soak.guided needs atheris: pip install atheris", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in ("plans", "mappings"):
        print("python -m tests.soak.guided plans|mappings [libFuzzer's options]", file=sys.stderr)
        return 2
    _fuzz(atheris, arguments[0], arguments[1:])
    return 0


def _fuzz(atheris: ModuleType, name: str, options: Sequence[str]) -> None:
    import torch  # noqa: F401  # before what is instrumented: torch itself is not

    with atheris.instrument_imports(include=["npas"]):
        from tests.soak.mutate import mutate_json
        from tests.soak.targets import check_mapping, check_plan, mapping_texts, plan_texts
    read, texts = {"plans": (check_plan, plan_texts), "mappings": (check_mapping, mapping_texts)}[
        name
    ]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(texts()):
        (corpus / f"valid-{i}.json").write_text(text, encoding="utf-8")

    def test(data: bytes) -> None:
        read(data.decode("utf-8", errors="replace"))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        try:
            text = mutate_json(data.decode(), random.Random(seed), texts())
        except (ValueError, RecursionError):  # not JSON any more
            return atheris.Mutate(data, max_size)
        return text.encode("utf-8", errors="surrogatepass")[:max_size]

    atheris.Setup(
        [sys.argv[0], "-max_len=100000", *options, str(corpus)], test, custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
