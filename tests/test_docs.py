"""The pages of the repository point at what is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from keras_mae import commands
from keras_mae.commands import flags

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("saved_models/**/*.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(
    r"(?<![\w/.])((?:benchmarks|docs|examples|keras_mae|scripts|tests)/[\w/]+\.(?:py|md|png))\b"
)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def text_of(page):
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    words = [re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(text_of(page))]
    return {word.replace(" ", "-") for word in words}


def broken_links(page):
    for target in LINK.findall(text_of(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_figure_exists(page):
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page):
    missing = [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert missing == []


SCRIPTS = {"make_tfrecords": "records", "serve_check": "serve-check"}
COMMAND = re.compile(r"^ *(?:python scripts/(\w+)\.py|keras-mae ([\w-]+))(.*)$", re.MULTILINE)


def shown_commands():
    """Yield (page, command's name, its flags) for all of ours that pages show, on a line each."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for script, name, rest in COMMAND.findall(text):
            arguments = shlex.split(rest.replace("SEED", "1"), comments=True)
            yield page.name, name or SCRIPTS.get(script, script), arguments


def test_every_command_shown_has_flags_that_fit():
    faults, count = [], 0
    for page, name, arguments in shown_commands():
        if name not in commands.COMMANDS or any("my_" in argument for argument in arguments):
            continue  # COMMAND itself, and classes that a reader has
        if flags.wants_help(arguments):
            continue
        count += 1
        command = commands.COMMANDS[name]
        try:
            settings = commands._settings_class(command, arguments)
            flags.parse_arguments(settings, arguments, command.positional)
        except ValueError as error:
            faults.append(f"{page}: {name} {arguments}: {error}")
    assert not faults, "\n".join(faults)
    assert count > 30


def rooms_of_the_table():
    """Return {room: the rooms that it may import}, of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    allowed, base = {}, set()
    for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
        first, _, imports = (cell.strip() for cell in line.strip("|").rsplit("|", 2))
        rooms = re.findall(r"`(\w+)`", first)
        base = base or set(rooms)
        named = set(re.findall(r"`(\w+)`", imports))
        above = set(allowed) if imports == "all above" else named | base
        allowed.update({room: above for room in rooms})
    return allowed


def imports_of_the_code():
    """Yield (file, its room, a room that it imports)."""
    for file in sorted((ROOT / "keras_mae").rglob("*.py")):
        room = file.relative_to(ROOT / "keras_mae").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = names if node.module == "keras_mae" else [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                other = (module.split(".") + [""])[1]
                if module.startswith("keras_mae.") and other != room:
                    yield file.relative_to(ROOT), room, other


def test_rooms_import_what_architecture_md_says():
    allowed = rooms_of_the_table()
    packages = {
        path.name for path in (ROOT / "keras_mae").iterdir() if (path / "__init__.py").exists()
    }
    assert packages <= set(allowed)
    wrong = {
        f"{file} imports {other}"
        for file, room, other in imports_of_the_code()
        if room not in ("__init__", "__main__") and other not in allowed[room]
    }
    assert not wrong


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n[a](page.md#a-title-here) [b](#no) [c](no.png) [d](http://e)")
    assert list(broken_links(page)) == ["#no", "no.png"]


def test_every_figure_is_shown():
    """A figure that no page shows would go stale unseen."""
    shown = {Path(target).name for page in PAGES for target in LINK.findall(text_of(page))}
    assert {path.name for path in ROOT.glob("docs/figures/*")} <= shown


def test_ci_runs_what_a_newcomer_runs():
    """The README's second block, command by command, in CI's script."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = blocks[1].strip().splitlines()
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert len(commands) == 2 and "pytest" in commands[1]
    places = [script.index(command) for command in commands]
    assert places == sorted(places)
