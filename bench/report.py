"""Makes everything that is shown of a run from bench/results/bench.json: bench.md, the pictures, the READMEs' blocks.

`make bench` ends with it; `make bench-readme` runs it alone, --check only says whether the texts are up to date.
"""

from __future__ import annotations

import sys

from suite import blocks, store, tables


def main(arguments: list[str]) -> int:
    results = store.read()
    texts = {store.FOLDER / "bench.md": tables.markdown(results)}
    for path in blocks.FILES:
        texts[path] = blocks.filled(path.read_text(encoding="utf-8"), results)
    if "--check" in arguments:
        stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        print("\n".join(f"{name} is not what bench/results/bench.json says: make bench-readme" for name in stale))
        return len(stale)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    if "--no-pictures" not in arguments:
        from suite import pictures

        pictures.draw(results, store.FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
