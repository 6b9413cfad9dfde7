"""The shape of the project: which way imports go, what is packaged, what the command line offers."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "search_spaces",
    "speech_data",
    "supernet",
    "distillation",
    "speech_tasks",
    "nas",
    "checkpoints",
    "nestling.reports",
    "nestling.workflows",
    "nestling",
    "cli",
)
"""From the ground up: each may import those above it in this list."""
TRAVELLING = {"supernet.encoder", "supernet.encoder_config", "supernet.front_end", "supernet.blocks"}
"""What is copied into exports."""
ONLY_IN = {
    "rich": {"nestling.reports", "cli"},
    "typer": {"nestling", "cli"},
    "optuna": {"nas"},
    "jinja2": {"nestling.reports"},
    "markupsafe": {"nestling.reports"},
}


TOPS = {layer.partition(".")[0] for layer in LAYERS}


def modules() -> list[Path]:
    return [ROOT / "cli.py", *(path for top in sorted(TOPS) for path in sorted((ROOT / top).rglob("*.py")))]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def layer_of(module: str) -> str | None:
    """The layer that a module belongs to; None for what is not ours."""
    found = [layer for layer in LAYERS if f"{module}.".startswith(f"{layer}.")]
    return max(found, key=len, default=None)


def imported(source: str) -> list[str]:
    """Every module that a file imports anywhere, functions included."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.append(str(node.module))
    return names


def breaches(module: str, source: str) -> list[str]:
    """The imports of a module that it may not have."""
    own = layer_of(module)
    assert own is not None, f"{module} is in no layer"
    wrong = []
    for name in imported(source):
        layer = layer_of(name)
        upward = layer is not None and LAYERS.index(layer) > LAYERS.index(own)
        if upward or own not in ONLY_IN.get(name.partition(".")[0], {own}):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    assert breaches(name_of(path), path.read_text("utf-8")) == []


def test_a_breach_would_be_seen() -> None:
    assert breaches("supernet.model", "def f():\n    from nas.search import search") == ["nas.search"]
    assert breaches("search_spaces.space", "import speech_data.corpus") == ["speech_data.corpus"]
    assert breaches("nestling.reports.page", "from nestling.workflows import jobs") == ["nestling.workflows"]
    assert breaches("nestling.workflows.jobs", "import nestling, nestling.reports.page") == ["nestling"]
    assert breaches("nas.search", "import rich") == ["rich"]


def source_of(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")


def test_the_encoder_that_travels_imports_torch_alone() -> None:
    names = {name for module in TRAVELLING for name in imported(source_of(module))}
    assert {name.partition(".")[0] for name in names - TRAVELLING} - set(sys.stdlib_module_names) == {"torch"}


def test_what_opens_an_export_names_each_file_that_travels() -> None:
    """`transformers` 5.0 copies those out of a folder that the file of the class names, and none that they name."""
    assert set(imported(source_of("checkpoints.runtimes.modeling_nestling"))) >= TRAVELLING


def test_nothing_needs_what_windows_lacks_to_be_imported() -> None:
    code = (
        "import importlib, sys, fvcore.nn\n"  # which brings a library that has its own way on Windows
        "sys.modules |= dict.fromkeys(('fcntl', 'resource'))\n"
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    names = [name_of(path).removesuffix(".__init__") for path in modules()]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_sample_rate_is_said_once_and_once_more_where_the_encoder_travels() -> None:
    said = [re.findall(r"^SAMPLE_RATE_HZ = (.+)$", path.read_text("utf-8"), re.MULTILINE) for path in modules()]
    assert [rate for rates in said for rate in rates] == ["16_000"] * 2


def test_spaces_need_no_torch() -> None:
    code = "import sys, search_spaces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MOST_LINES = 500


def test_no_module_is_too_long_to_be_read_in_one_go() -> None:
    lines = {
        path: len(path.read_text("utf-8").splitlines()) for path in [*modules(), *(ROOT / "benchmarks").glob("*.py")]
    }
    assert {str(path.relative_to(ROOT)): num for path, num in lines.items() if num > MOST_LINES} == {}


def drawn(readme: str) -> dict[str, str]:
    """What the tree of the README draws, by its path, and what it says of each."""
    lines = readme.partition("## The tree\n")[2].split("```")[1].strip().splitlines()
    *tree, rest = lines
    found, top = dict.fromkeys(rest.split(), ""), ""
    for line in tree:
        name, _, said = line.strip().partition(" ")
        top = top if line.startswith(" ") else name
        found[name if name == top else top + name] = said
    return found


def test_the_tree_of_the_readme_is_the_one_on_disk() -> None:
    tree = drawn((ROOT / "README.md").read_text("utf-8"))
    paths = [str(path.relative_to(ROOT)) for path in modules()]
    folders = {f"{path.rpartition('/')[0]}/" for path in paths if "/" in path}
    assert {name for name in tree if name.partition("/")[0] in TOPS and name.endswith("/")} == folders
    assert [name for name in tree if not (ROOT / name).exists()] == []
    files = {name for name in tree if name.endswith(".py")}
    beside = {str(Path(file).parent) for file in files}  # where one is drawn, all are
    assert {path for path in paths if str(Path(path).parent) in beside and not path.endswith("__init__.py")} == files
    for name, said in tree.items():
        for file in re.findall(r"[\w/*]+\.(?:py|yaml)\b", said):
            assert [*(ROOT / name).glob(file)], f"{name} has no {file}"


def test_every_package_is_packaged_with_its_data() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in modules() if path.parent != ROOT}
    assert set(tool["packages"]) == {".".join(folder.parts) for folder in folders}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)
    tops = {folder.parts[0] for folder in folders}
    data = {p for top in tops for p in (ROOT / top).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    installed = {
        path
        for package, patterns in tool["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert data == installed
    assert ROOT / "nestling/reports/templates/run.html" in installed


def test_every_requirement_is_pinned_for_the_two_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[<>=]", requirement)[0].lower() for requirement in wanted}
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    assert names <= pinned


def unsafe_calls(source: str) -> list[str]:
    """Imports and calls that could run code from a file."""
    tree = ast.parse(source)
    found = [name for name in imported(source) if name in ("pickle", "dill", "joblib")]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        arguments = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if (
            name in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load")
            or (name == "torch.load" and arguments.get("weights_only") != "True")
            or arguments.get("trust_remote_code") == "True"
            or arguments.get("allow_pickle") == "True"
        ):
            found.append(name)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    own_export = path == ROOT / "checkpoints/proof.py"  # opens the folder it has just written, as a user would
    allowed = {"AutoModel.from_pretrained", "transformers.AutoModel.from_pretrained"} if own_export else set()
    assert set(unsafe_calls(path.read_text("utf-8"))) - allowed == set()


def test_few_modules_open_files_of_torch() -> None:
    """`weight_files` those of others, with every check; `training_states` a run's own, by their SHA-256."""
    found = {path.name for path in modules() if re.search(r"(?<!safetensors\.)torch\.load\(", path.read_text("utf-8"))}
    assert found == {"weight_files.py", "training_states.py"}


def test_an_unsafe_call_would_be_seen() -> None:
    assert unsafe_calls("import torch\ntorch.load(f)") == ["torch.load"]
    assert unsafe_calls("m = A.from_pretrained(p, trust_remote_code=True)") == ["A.from_pretrained"]


PATHS = ([ast.Name], [ast.BinOp], [ast.Attribute])
"""What a path may look like as the one argument of `Path.replace`; a text's own `replace` has two."""


def own_writes(source: str) -> list[str]:
    """Calls that write a file in place or rename it, and files opened for writing other than at their end."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        owner, _, name = ast.unparse(call.func).rpartition(".")
        texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if (
            name in ("write_text", "write_bytes", "fsync", "mkstemp", "mkdtemp", "save_file")
            or (name in ("replace", "rename") and (owner == "os" or (owner and [*map(type, call.args)] in PATHS)))
            or (name == "open" and any(text in ("w", "wb", "x", "xb", "w+", "w+b") for text in texts))
        ):
            found.append(ast.unparse(call.func))
    return found


OWN_WRITES = {
    "search_spaces/files.py",
    "speech_data/recorded/packages.py",  # into a folder that takes its place once all of it is there
    "speech_data/flite.py",  # what it tells flite, in a temporary folder
    "nas/record.py",  # rows at the end of a file that only grows, each forced to disk
}


def test_files_are_written_in_one_way() -> None:
    own = {str(p.relative_to(ROOT)): own_writes(p.read_text("utf-8")) for p in modules()}
    assert {path: calls for path, calls in own.items() if calls and path not in OWN_WRITES} == {}


def test_a_write_of_ones_own_would_be_seen() -> None:
    for code in (
        "p.write_text(t)",
        "p.rename(q)",
        "os.replace(p, q)",
        "p.replace(f / n)",
        "open(p, 'w')",
        "p.open('wb')",
        "f.save_file(w)",
    ):
        assert own_writes(code), code
    for code in ("t.replace('a', 'b')", "t.replace(*x)", "replace(subnet, x=1)", "p.open('a')", "write_file(p, t)"):
        assert not own_writes(code), code
