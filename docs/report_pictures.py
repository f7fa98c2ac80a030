"""Take the pictures of a report that README and the pages show: of the demo's network, which anyone can make.

    python docs/report_pictures.py [FOLDER]

It is trained for a few epochs on scikit-learn's digits, pruned under three budgets, repaired and validated; the pictures are
what Chromium shows of its report (needs selenium, Chromium and its driver).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import fxprune
from fxprune.cli.demo import DigitsNet, _train
from fxprune.inputs.digits import digits

FOLDER = Path(__file__).parent / "pages" / "images"
EPOCHS = 8
FLAGS = "headless no-sandbox disable-gpu no-first-run disable-background-networking hide-scrollbars".split()


def page(folder: Path) -> Path:
    """The report of a pruned, repaired and validated network."""
    data = digits()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dense = DigitsNet()
    _train(dense, data, EPOCHS, 3e-3, "training")
    budgets = {"macs": 0.45, "params": 0.6, "memory": 0.9}
    slim = fxprune.prune(dense, example_inputs=data.test_x[:2], repair=data.train_x[:640], **budgets)
    fxprune.validate(dense, slim, [(data.test_x, data.test_y)])
    return fxprune.report(slim, folder / "report.html")


def main(arguments: list[str]) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = Path(arguments[0]) if arguments else FOLDER
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    with tempfile.TemporaryDirectory() as work:
        file = page(Path(work))
        take(browser, file, folder / "report.png", (1180, 1010))
        take(browser, file, folder / "report-groups.png", (1180, 700), "groups", dark=True)
        take(browser, file, folder / "report-phone.png", (360, 740), "scores")
    browser.quit()


def take(browser: Any, file: Path, picture: Path, size: tuple[int, int], part: str = "", dark: bool = False) -> None:
    """One picture; that of the groups with one of them open."""
    wide, high = size
    screen = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": wide < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours]})
    browser.get(file.as_uri())
    if part:
        browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'; location.hash = arguments[0]", part)
        time.sleep(0.5)
    if part == "groups":
        at = "{bubbles: true}"
        browser.execute_script(f"document.querySelectorAll('.bar')[3].dispatchEvent(new MouseEvent('click', {at}))")
        time.sleep(0.5)
    picture.write_bytes(browser.get_screenshot_as_png())
    print(f"{picture}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
