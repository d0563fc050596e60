"""The page's files without a browser: all that one names is served, and an installed package has it."""

import re
import tomllib
from pathlib import Path

STATIC = Path("pipeline/serve/static")


def test_all_that_the_page_names_is_served_as_what_it_is(serve):
    client = serve()
    named, seen = {"/"}, set()
    while wanted := named - seen:
        for path in wanted:
            answer = client.get(path)
            assert answer.status_code == 200, path
            kind = {"": "html", ".js": "javascript", ".css": "css", ".svg": "svg"}[Path(path).suffix]
            assert kind in answer.headers["content-type"]
            if kind in ("html", "javascript"):
                named |= set(re.findall(r'(?:href|src)="(/[^"]+)"', answer.text))
                named |= {f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', answer.text)}
        seen |= wanted
    # And no file lies there that nothing asks for.
    assert {Path(path).name for path in seen - {"/"}} | {"index.html"} == {file.name for file in STATIC.iterdir()}


def test_no_module_of_the_page_imports_itself_round_about():
    imports = {f.name: set(re.findall(r'from "\./([^"]+)"', f.read_text())) for f in STATIC.glob("*.js")}
    while leaves := {name for name, of in imports.items() if not of & imports.keys()}:
        imports = {name: of for name, of in imports.items() if name not in leaves}
    assert imports == {}


def test_an_installed_package_has_every_file_of_the_page():
    patterns = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline.serve"]
    packed = {file for pattern in patterns for file in STATIC.parent.glob(pattern)}
    assert set(STATIC.rglob("*")) == packed
