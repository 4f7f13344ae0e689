"""Write what is made from the code: the settings table and the JSON Schemas; with --check, name the stale files."""

import argparse
import ast
import inspect
import itertools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

# As a script, its own folder is where Python looks for modules.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llm_provider.bootstrap import REAL_PROVIDERS
from llm_provider.config import PREFIX, Settings, VendorSettings
from scripts import export_schemas

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
BEGIN: Final = "<!-- settings: written by scripts/generate_docs.py, do not edit -->"
END: Final = "<!-- end of settings -->"

# The end of a setting's name says its unit.
UNITS: Final = {"_seconds": "seconds", "_ms": "milliseconds", "_bytes": "bytes"}
TYPES: Final = {bool: "true or false", int: "whole number", float: "number", str: "text", SecretStr: "secret"}


def sections() -> Iterator[tuple[str, list[str]]]:
    """The names of the settings under each one-line comment that heads them in config.py."""
    source = inspect.getsource(Settings)
    starts = {
        number: line.strip().removeprefix("# ")
        for number, line in enumerate(source.splitlines(), start=1)
        if line.startswith("    # ")
    }
    lines = {
        node.target.id: node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for begin, end in itertools.pairwise([*starts, sys.maxsize]):
        yield starts[begin], [name for name, line in lines.items() if begin < line < end and name != "vendors"]


def settings_table() -> str:
    """All settings in Markdown, one table a section; those that every vendor has come last."""
    fields = Settings.model_fields
    own = (_table(title, PREFIX, {name: fields[name] for name in names}) for title, names in sections())
    return "\n".join(itertools.chain(*own, _vendor_tables()))


def _table(title: str, prefix: str, fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    yield from ("", f"### {title}", "", "| variable | type | default | meaning |", "|---|---|---|---|")
    for name, field in fields.items():
        yield _row(f"`{prefix}{name.upper()}`", _type(name, field), _default(field.default), field.description or "")


def _vendor_tables() -> Iterator[str]:
    yield from _table("Each vendor", f"{PREFIX}<VENDOR>_", VendorSettings.model_fields)
    yield from ("", "| `<VENDOR>` | base URL when unset | default model when unset |", "|---|---|---|")
    for vendor in REAL_PROVIDERS:
        yield _row(f"`{vendor.name.upper()}`", f"`{vendor.default_base_url}`", f"`{vendor.default_model}`")


def _row(*cells: str) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _type(name: str, field: FieldInfo) -> str:
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), None)
    kind = _plain(field.annotation)
    if get_origin(kind) is Mapping:
        return "JSON"
    if get_origin(kind) is tuple:
        return f"list of {unit}" if unit else "list"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(f"`{member.value}`" for member in kind)
    return unit or TYPES[kind]


def _plain(annotation: Any) -> Any:
    """The type itself: without None, and without what Annotated adds."""
    if get_origin(annotation) in {Union, types.UnionType}:
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _default(value: object) -> str:
    if value in (None, {}, ()):
        return "unset"
    if isinstance(value, tuple):
        return f"`{','.join(map(_text, value))}`"
    return f"`{_text(value)}`"


def _text(value: object) -> str:
    """A value as it is written in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def with_settings(page: str) -> str:
    """The page with its table renewed; the prose around the two markers stays."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} must hold the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{settings_table()}\n\n{END}{after}"


def check(page: Path) -> int:
    text = page.read_text(encoding="utf-8")
    is_stale = text != with_settings(text)
    if is_stale:
        print(f"stale: docs/{page.name} (run: make docs)", file=sys.stderr)
    return int(is_stale)


def write(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if text != with_settings(text):
        page.write_text(with_settings(text), encoding="utf-8")
        print(f"docs/{page.name}")


def main(argv: Sequence[str], page: Path = PAGE) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is stale")
    if parser.parse_args(argv).check:
        return check(page) | export_schemas.main(["--check"])
    write(page)
    return export_schemas.main([])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
