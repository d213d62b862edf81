"""Asks a model of Triton for an inference, and reloads it where the process that runs it has died.

    python3 probe.py                     exit code 0 if the model answers, else 1 with one sentence: for a liveness probe
    python3 probe.py --watch 2           asks every 2 seconds, for ever, and reloads the model when it has died; Triton
                                         needs --model-control-mode=explicit for that

Triton says that a model is ready after its Python process was killed, so that nothing less than an inference tells (server #8604). The
model's folder is that of this file, and probe.json beside it is the request. This needs Python alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

DEFAULT_SERVER = "http://localhost:8000"
DEFAULT_TIMEOUT_S = 3.0
LOAD_TIMEOUT_S = 600.0
DEAD_STATUS, FULL_QUEUE_STATUS = 500, 503
"""HTTP status of a request to a Python process that has died, and of one that a full queue refuses."""

MAX_SHOWN_CHARACTERS = 300

FOLDER = Path(__file__).resolve().parent


def send(url: str, body: bytes | None, timeout: float) -> tuple[int, str]:
    """Sends a request, by POST where it has a body.

    Returns:
        HTTP status and the answer, or what failed; the status is 0 without an answer.
    """
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(getattr(error, "reason", error)) or type(error).__name__


def count_instances(config: dict[str, Any]) -> int:
    """Counts the processes of a model by its configuration."""
    return sum(group["count"] * max(1, len(group.get("gpus", []))) for group in config["instance_group"])


def read_counts(model_url: str, timeout: float) -> tuple[int, int]:
    """Reads how many requests to the model have had an answer and how many have failed; both 0 where the server does not say.

    Nothing but a process that has died counts as a failure (2.51): what a full queue refuses counts as neither, what the model itself
    refuses as an answer.
    """
    try:
        rows = json.loads(send(f"{model_url}/stats", None, timeout)[1])["model_stats"]
        stats = [row["inference_stats"] for row in rows]
        return sum(each["success"]["count"] for each in stats), sum(each["fail"]["count"] for each in stats)
    except (ValueError, KeyError, TypeError):
        return 0, 0


def probe(model_url: str, request: bytes, timeout: float) -> tuple[int, str]:
    """Asks every process of the model for an inference, all at once, since one request reaches only one of them.

    Where many requests wait, the answer is not there in time; what became of the others meanwhile is as good.

    Returns:
        Status and sentence of the worst answer; the status is 200 where all is well.
    """
    status, text = send(f"{model_url}/config", None, timeout)
    if status != 200:
        return status, text
    count = count_instances(json.loads(text))
    succeeded, failed = read_counts(model_url, timeout)
    started = time.monotonic()
    with ThreadPoolExecutor(count) as executor:
        answers = list(executor.map(lambda _: send(f"{model_url}/infer", request, timeout), range(count)))
    status, text = max(answers, key=lambda answer: (answer[0] == DEAD_STATUS, answer[0] != 200))
    if status in (0, FULL_QUEUE_STATUS):
        time.sleep(max(0.0, started + timeout - time.monotonic()))
        succeeded_later, failed_later = read_counts(model_url, timeout)
        if succeeded_later > succeeded:
            return 200, f"busy: {succeeded_later - succeeded} other requests were answered in {timeout:g} s"
        if failed_later > failed:
            return DEAD_STATUS, f"{failed_later - failed} other requests failed in {timeout:g} s, and none was answered"
    return status, text


def watch(server: str, name: str, request: bytes, timeout: float, interval: float) -> None:
    """Asks again and again, and has Triton unload and load the model when a process of it has died.

    To load it alone does nothing, since its files are the same.
    """
    last, is_unloaded = 200, False
    while True:
        status, text = probe(f"{server}/v2/models/{name}", request, timeout)
        if status != last:
            report(name, status, text)
        last = status
        if status == DEAD_STATUS and not is_unloaded:
            status, text = send(f"{server}/v2/repository/models/{name}/unload", b"{}", timeout)
            is_unloaded = status == 200
            if not is_unloaded:
                report(f"{name} is not unloaded", status, text)
        if is_unloaded:
            status, text = send(f"{server}/v2/repository/models/{name}/load", b"{}", LOAD_TIMEOUT_S)
            is_unloaded = status != 200
            report(f"{name} is {'not loaded' if is_unloaded else 'loaded again'}", status, text)
        time.sleep(interval)


def report(title: str, status: int, text: str) -> None:
    """Prints a line."""
    print(f"{title}: {status or 'no answer'} {text[:MAX_SHOWN_CHARACTERS]}", flush=True)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=DEFAULT_SERVER, help="HTTP address of Triton; default: %(default)s")
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        help="seconds for an answer, more than an image takes; default: %(default)s",
    )
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="ask every so many seconds and reload the model")
    options = parser.parse_args()
    name, request = FOLDER.name, (FOLDER / "probe.json").read_bytes()
    if options.watch is not None:
        watch(options.server, name, request, options.timeout, options.watch)
    status, text = probe(f"{options.server}/v2/models/{name}", request, options.timeout)
    report(name, status, text if status != 200 or text.startswith("busy") else "")
    return status != 200


if __name__ == "__main__":
    sys.exit(main())
