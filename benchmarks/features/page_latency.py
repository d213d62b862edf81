"""Measures the live page in headless Chromium: the latency from a slider event to its frame, and frames per second.

    python -m benchmarks.features.page_latency -o page.json
    python -m benchmarks.features.page_latency --width 24 --depth 8 --scale 2 --events 100

`dni-deploy serve` and the browser run in separate processes. A slider event is a DOM event on the page; its frame is the first one
drawn that was rendered after it. Needs PyTorch (for the Compact network), playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result_file import describe_run
from benchmarks.samples import ROOT, write_compact_bundle, write_identity_bundle, write_video
from dni_deploy.errors import UnavailableError

CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip

# Events are sent at random points of a frame: right after a draw the next frame has just begun, and the wait would be longest.
MOVE_SLIDER_SCRIPT = """async ([events, frame]) => {
  const slider = document.getElementById('alpha'), found = [];
  for (let index = 0; index < events; index += 1) {
    const before = dni.latencies.length;
    slider.value = (index * 37 % 100) / 100;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    while (dni.latencies.length === before) await new Promise(done => setTimeout(done, 1));
    found.push(dni.latencies[dni.latencies.length - 1]);
    await new Promise(done => setTimeout(done, Math.random() * 2 * frame));
  }
  return found;
}"""

COUNT_FRAMES_SCRIPT = """async seconds => {
  const from = dni.frames, began = performance.now(), start = dni.times.length;
  await new Promise(done => setTimeout(done, seconds * 1000));
  const times = dni.times.slice(-Math.min(dni.frames - from, 250));
  return { rate: (dni.frames - from) * 1000 / (performance.now() - began), gaps: times.slice(1).map((time, index) => time - times[index]) };
}"""


@contextmanager
def page_of(bundle: Path, source: Path, size: str, browser: Any, threads: int) -> Iterator[Any]:
    """Starts a server process and yields its page after it has drawn its first frame."""
    command = [
        sys.executable,
        "-m",
        "dni_deploy",
        "serve",
        str(bundle),
        str(source),
        "--port",
        "0",
        "--size",
        size,
        "--fps",
        "240",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([*command, "--threads", str(threads), "-q"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        if not url:
            raise UnavailableError("dni-deploy serve did not start.")
        tab = browser.new_page(viewport={"width": 1280, "height": 844})
        tab.goto(url)
        while not tab.evaluate("dni.frames > 1"):
            time.sleep(0.02)
        yield tab
        tab.close()
    finally:
        child.terminate()
        child.wait(10)


def quantile(values: list[float], fraction: float) -> float:
    """Returns the quantile with linear interpolation, rounded to two digits."""
    return round(float(np.quantile(values, fraction)), 2)


def measure(options: argparse.Namespace, folder: Path, browser: Any) -> dict[str, Any]:
    write_video(folder / "slow.mp4", 320, 180, 60)
    write_video(folder / "fast.mp4", 640, 360, 120)
    write_identity_bundle(folder / "identity.dni")
    write_compact_bundle(folder / "compact.dni", options.width, options.depth, options.scale)
    load = os.getloadavg()[0]
    with page_of(folder / "compact.dni", folder / "slow.mp4", "320x180", browser, options.threads) as tab:
        steady = tab.evaluate(COUNT_FRAMES_SCRIPT, options.seconds)
        frame = statistics.median(steady["gaps"])
        latencies = tab.evaluate(MOVE_SLIDER_SCRIPT, [options.events, frame])
        network = tab.locator("#m-network").inner_text()
    max_p95_ms = 2 * frame + 30
    latency = {
        "network": f"Compact {options.width}x{options.depth}, x{options.scale}, 320x180 in",
        "frame_ms": round(frame, 2),
        "network_told_by_page": network,
        "events": len(latencies),
        **{f"p{round(100 * fraction)}_ms": quantile(latencies, fraction) for fraction in (0.5, 0.95, 0.99)},
        "goal_p95_ms": round(max_p95_ms, 2),
        "reached": quantile(latencies, 0.95) <= max_p95_ms,
        "load_before": load,
    }
    load = os.getloadavg()[0]
    with page_of(folder / "identity.dni", folder / "fast.mp4", "640x360", browser, options.threads) as tab:
        watched = [tab.evaluate(COUNT_FRAMES_SCRIPT, options.seconds)["rate"] for _ in range(3)]
    rate = {
        "picture": "640x360 JPEG, quality 80, identity, film of 120 frames/s",
        "frames_per_second": [round(value, 1) for value in watched],
    }
    return {"latency": latency, "rate": {**rate, "goal": 60, "reached": statistics.median(watched) >= 60, "load_before": load}}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="features of the Compact network")
    parser.add_argument("--depth", type=int, default=16, help="its convolutions")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--events", type=int, default=60, help="slider events")
    parser.add_argument("--seconds", type=float, default=4.0, help="that frames are counted for")
    parser.add_argument("--threads", type=int, default=0, help="of the engine")
    parser.add_argument("-o", "--output", type=Path, help="JSON; default: printed")
    options = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        figures = measure(options, Path(name), browser)
        browser.close()
    result = {
        **describe_run(ROOT),
        "load_after": os.getloadavg()[0],
        **figures,
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
