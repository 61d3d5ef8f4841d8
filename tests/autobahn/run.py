"""Runs Autobahn's cases against an echoing WebSocket endpoint and prints one JSON line per case.

usage: run.py WS_URL_PREFIX [PATTERN...]

The endpoint of a case is the prefix with the case's number behind it, so that each connection has a topic
of its own and the echo of one case can never reach another. Patterns (`12.*`) choose cases; all run when
there is none.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import sys

import kosoku
from kosoku import _caseindex

CASES: dict[str, type] = {}


def as_bytes(on_message):
    """In the cases 12.x and 13.x kosoku 0.1.0 hands an uncompressed echo on as `str`, which they cannot hash:
    text decoded, and bytes as one character each."""

    def patched(self, message, binary):
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        return on_message(self, message, binary)

    return patched


def watch_the_index() -> None:
    """The index of cases is built at the first run, in kosoku's own code: patch what it builds, and keep it."""
    build_index = _caseindex.build_index

    def build(static_modules, generators):
        cases, groups = build_index(static_modules, generators)
        for case_id, case in cases.items():
            if case_id.split(".")[0] in ("12", "13"):
                case.onMessage = as_bytes(case.onMessage)
        CASES.update(cases)
        return cases, groups

    _caseindex.build_index = build


async def run(prefix: str, case_id: str) -> None:
    try:
        (result,) = await kosoku.run_fuzzingclient(f"{prefix}{case_id}", [case_id])
    except kosoku.FailureError as failure:
        (result,) = failure.results
    line = {
        "case": case_id,
        "behavior": result.behavior.value,
        "close": result.behavior_close.value,
        "passed": result.passed,
        "ms": result.duration,
    }
    if not result.passed or result.behavior.value != "OK":
        line["description"] = result.description
        line["result"] = result.result
        line["result_close"] = result.result_close
    print(json.dumps(line), flush=True)


async def main() -> None:
    prefix, patterns = sys.argv[1], sys.argv[2:] or ["*"]
    watch_the_index()
    await run(prefix, "1.1.1")
    for case_id in CASES:
        if case_id != "1.1.1" and any(fnmatch.fnmatch(case_id, pattern) for pattern in patterns):
            await run(prefix, case_id)


if __name__ == "__main__":
    asyncio.run(main())
