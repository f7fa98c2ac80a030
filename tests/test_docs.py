"""What README and the pages show: every Python example runs, and prints what they say."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from support.libraries import library
from support.operators import operators_put_back

from fxprune.codegen import writers
from fxprune.criteria import registry as criteria_registry
from fxprune.options import Scope
from fxprune.passes import registry as passes_registry
from fxprune.planning.policies import registry as policies_registry

ROOT = Path(__file__).resolve().parents[1]

# What examples add to: each page starts from what the package holds.
REGISTRIES = (
    (criteria_registry, "_registered"),
    (policies_registry, "_registered"),
    (passes_registry, "_registered"),
    (writers, "_registered"),
)


def script(name: str) -> ModuleType:
    """A script of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(f"_docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


docs = script("examples")
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in docs.pages()}


def with_examples() -> list[object]:
    found = [name for name, text in PAGES.items() if docs.examples(text)]
    return [pytest.param(name, marks=pytest.mark.slow if "<!-- slow -->" in PAGES[name] else ()) for name in found]


@pytest.mark.parametrize("name", with_examples())
def test_examples_print_what_the_page_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures may differ in the last digits between processors; words and layers may not."""
    for module, attribute in REGISTRIES:
        monkeypatch.setattr(module, attribute, dict(getattr(module, attribute)))
    for needed in docs.needs(PAGES[name]):
        library(needed, monkeypatch)
    monkeypatch.chdir(tmp_path)
    exact = "<!-- exact -->" in PAGES[name]
    with operators_put_back(), warnings.catch_warnings():
        if docs.needs(PAGES[name]):
            warnings.simplefilter("ignore")  # of the library about its own code
        for example, printed in docs.run(ROOT / name):
            expected = example.output or ""
            assert docs.same(printed, expected, exact), f"{name}:{example.line} prints\n{printed}\nnot\n{expected}"
    if name == "README.md":
        assert sorted(file.name for file in (tmp_path / "slim").iterdir()) == ["slim.py", "slim.safetensors"]


def test_every_python_fence_is_an_example() -> None:
    for name, text in PAGES.items():
        assert len(re.findall(r"```python", text)) == len(docs.examples(text)), name


@pytest.mark.parametrize(
    ("found", "expected", "exact", "alike"),
    [
        ("error 1.2e-07\n", "error 3e-8\n", False, True),
        ("error 1.2e-07\n", "error 3e-8\n", True, False),
        ("fc: frozen", "fc: pruned", False, False),
        ("a  1\n", "a 1\n", True, True),
        ("a\nb\n", "a\n", False, False),
    ],
)
def test_same_output(found: str, expected: str, exact: bool, alike: bool) -> None:
    assert docs.same(found, expected, exact) == alike


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"(?:\]\(|src=\")(?!https?:)([^)#\"]+)", text):
        assert (ROOT / target).exists(), f"{name} links to {target}"


def test_readme_has_two_commands_of_one_line() -> None:
    """.ci/run takes the second from there."""
    commands = re.findall(r"^pip install .*$", PAGES["README.md"], re.MULTILINE)
    assert commands == ['pip install ".[demo]" && fxprune demo', 'pip install -e ".[test]" && python -m pytest']


def test_criteria_page_is_what_the_registry_says() -> None:
    """``python docs/criteria_table.py`` writes it again."""
    text = PAGES["docs/pages/criteria.md"]
    assert script("criteria_table").filled(text) == text
    assert all(f"| `{name}` |" in text for name in criteria_registry._NAMES)


def test_pipeline_page_maps_every_file() -> None:
    named = set(re.findall(r"`(?:fxprune/)?(\w+(?:\.py|/))`", PAGES["docs/pages/pipeline.md"]))
    code = {f"{p.name}/" if p.is_dir() else p.name for p in (ROOT / "fxprune").iterdir()}
    assert code - {"__init__.py", "api.py", "py.typed", "__pycache__/"} <= named


def test_picture_is_drawn(tmp_path: Path) -> None:
    script("pictures").main([str(tmp_path / "coupled.svg")])
    assert (tmp_path / "coupled.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_pages_build_without_warnings(tmp_path: Path) -> None:
    build = pytest.importorskip("mkdocs.commands.build", reason="needs the extra `docs`")
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "docs" / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build.build(config)
    assert (tmp_path / "site" / "index.html").is_file()


def test_counts_and_names_of_what_there_is_are_up_to_date() -> None:
    """Criteria are counted in README and on their page; policies have a row on theirs, and a place in the type of `scope`."""
    count = len(criteria_registry._NAMES)
    assert f"[{count} criteria]" in PAGES["README.md"]
    assert set(policies_registry._NAMES) == set(get_args(Scope))
    page = PAGES["docs/pages/policies.md"]
    assert all(f'`"{name}"`' in page or f"`{name}`" in page for name in policies_registry._NAMES)
