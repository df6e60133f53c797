"""The import graph, drawn from the source: arrows go down, and there is no circle."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_mae"
# From the bottom to the top. What shares a line may import one another, as long as no circle is
# made; everything else imports what is on lines above its own only.
ROOMS = (
    (
        "version",
        "errors",
        "files",
        "pages",
        "pixels",
        "poolings",
        "presets",
        "quiet",
        "registry",
        "types",
    ),
    ("settings",),
    ("layers",),
    ("models",),
    ("data", "training", "evaluation", "plots"),
    ("interop",),
    ("export",),
    ("tasks",),
    ("commands", "testing"),
    ("__init__", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}


def name_of(path, root=PACKAGE):
    """Return a file's module name, such as "models.encoder"; of a package, the package's."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(source):
    """Yield full names of the modules that a source imports, inside functions too.

    Imports for type checkers only are none.
    """
    tree = ast.parse(source)
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph():
    """Return a dict of each file's module name to those of ours that it imports."""
    files = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    found = {}
    for name, path in files.items():
        found[name] = set()
        for imported in imports_of(path.read_text()):
            if imported.split(".")[0] != "keras_mae":
                continue
            parts = imported.split(".")[1:]
            # The longest beginning that is a module: the rest is a name in it.
            while parts and ".".join(parts) not in files:
                parts.pop()
            found[name].add(".".join(parts) or "__init__")
        found[name].discard(name)
    return found


def circles(edges):
    """Return all groups of two or more nodes that reach one another."""
    reach = {node: {node} for node in edges}
    changed = True
    while changed:
        changed = False
        for node, targets in edges.items():
            more = set().union(*(reach[target] for target in targets)) - reach[node]
            changed |= bool(more)
            reach[node] |= more
    groups = {frozenset(other for other in reach[node] if node in reach[other]) for node in edges}
    return [sorted(group) for group in groups if len(group) > 1]


def test_there_is_no_circle():
    assert circles(graph()) == []


def test_no_arrow_goes_up():
    edges = graph()
    rooms = {name: name.split(".")[0] for name in edges}
    assert set(rooms.values()) <= set(RANK)
    up = [
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in others
        if RANK[rooms[other]] > RANK[rooms[name]]
    ]
    assert up == []


def test_rooms_of_one_floor_do_not_import_each_others_insides():
    floor = ("data", "training", "evaluation", "plots")
    inside = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if name.split(".")[0] in floor
        and other.split(".")[0] in floor
        and name.split(".")[0] != other.split(".")[0]
    ]
    assert inside == []


def test_tests_and_benchmarks_do_not_import_each_other():
    names = {
        folder: {path.stem for path in (ROOT / folder).rglob("*.py")}
        for folder in ("tests", "benchmarks")
    }
    shared = names["tests"] & names["benchmarks"]
    assert not shared
    for folder, other in (("tests", "benchmarks"), ("benchmarks", "tests")):
        for path in (ROOT / folder).rglob("*.py"):
            roots = {name.split(".")[0] for name in imports_of(path.read_text())}
            assert not roots & names[other] and other not in roots, path


def test_a_circle_and_an_arrow_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    code = "from keras_mae.models import weights\ndef f():\n    import keras_mae.tasks.probe"
    assert list(imports_of(code)) == ["keras_mae.models.weights", "keras_mae.tasks.probe"]
