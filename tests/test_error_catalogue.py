"""The error catalogue: what people mistype, misname and mistake, and that it ends in a few lines that say so.

Every command here must fail: with the exit code of whoever is at fault, in six lines on stderr at most, without a
traceback, without a result on stdout, and without leaving anything behind.
"""

import json
import shutil
import zipfile

import pytest

from tests.shell import Shell
from tests.training_cases import RECIPE, SPACE, write_case
from tests.whisper_cases import text as ct2_text

JOB = "--space handful.yaml --config recipe.yaml --audio audio --precision fp32"
TEXTS = {
    "text.txt": "hello\n",
    "twice.yaml": "name: a\nname: b\n",
    "alias.yaml": "a: &x 1\nb: *x\n",
    "tag.yaml": "a: !!python/object:os.system {}\n",
    "list.yaml": "- a\n",
    "nothing.yaml": "",
    "two.yaml": "a: 1\n---\na: 2\n",
    "torn.yaml": "name: [a\n",
    "deep.yaml": "a: " + "[" * 400,
    "big.yaml": "a: " + "x" * 1_000_001,
    "broken.json": "[]",
    "deep.json": "[" * 100_000,
    "manifest.jsonl": '{"audio_filepath": 3}\n{"path"\n',
    "gone.jsonl": '{"audio_filepath": "gone.wav", "duration": 3.0}\n',
    "stageless.yaml": "stages: []\n",
    "doubled.yaml": RECIPE.replace("stage-2", "stage-1"),
    "sourceless.yaml": RECIPE.replace("source: teacher,", "source: techer,"),
    "kinds.yaml": RECIPE.replace("kind: teacher", "kind: teechr"),
    "done.yaml": RECIPE.replace("stage-2", "done"),
    "noise/a.wav": "RIFF",
    "full/mine.txt": "mine",
    "textmodel/config.json": '{"model_type": "bert"}',
    "jsonless/config.json": "{",
    "garbled/model.safetensors": "x" * 500,
}
"""Files that are wrong, each in its way."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder with a small run, an export, and much that is wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    write_case(folder)
    shell = Shell(folder)
    steps = "--set stage-1.steps=1 --set stage-2.steps=1"
    shell.done(f"train supernet --run runs/a --teacher teacher {JOB} {steps}")
    shutil.copytree(folder / "runs/a", folder / "runs/fresh")
    shell.done("search subnet --run runs/a --budget 8k --trials 2 --utterances 2")
    shell.done("export subnet --run runs/a --out encoder")
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    (folder / "binary.bin").write_bytes(bytes(range(256)) * 40)
    with zipfile.ZipFile(folder / "zip.pt", "w") as archive:
        archive.writestr("a/b", "c")
    (folder / "loop").symlink_to("loop")
    for name in ("empty", "other", "weightless", "translator", "cut"):
        (folder / name).mkdir()
    of_ctranslate2 = [b"\6\0\0\0" + ct2_text(name) for name in ("TransformerSpec", "WhisperSpec")]
    (folder / "translator/model.bin").write_bytes(of_ctranslate2[0])
    (folder / "cut/model.bin").write_bytes(of_ctranslate2[1] + b"\3\0\0\0\x94\0\0\0")
    shutil.copy(folder / "audio/take-01.wav", folder / "other/x.wav")
    for name in ("weightless", "garbled"):
        shutil.copy(folder / "teacher/config.json", folder / name)
    write_spaces(folder)
    write_runs(folder / "runs")
    return shell


def write_spaces(folder):
    """Spaces and a subnet that are none."""
    values = SPACE.to_dict()
    lacking = {key: value for key, value in values.items() if key != "heads"}
    spaces = {
        "lacking": lacking,
        "misspelt": {**values, "head": [1]},
        "mistyped": {**values, "heads": "two"},
        "negative": {**values, "heads": [-1, 2]},
        "huge": {**values, "embed_dim": [10**12]},
    }
    for name, changed in spaces.items():
        (folder / f"{name}.yaml").write_text(json.dumps(changed))
    (folder / "nan.yaml").write_text(
        json.dumps({**values, "ffn_dim": [], "ffn_ratio": [0.5]}).replace("[0.5]", "[.nan]")
    )
    subnet = Shell(folder).done("space tiny --format json").json["container"]["subnet"]
    fits = SPACE.container.to_dict()
    (folder / "subnet.json").write_text(json.dumps({"subnet": fits}))
    (folder / "other.json").write_text(json.dumps({"subnet": {**subnet, "embed_dim": 7}}))


def write_runs(runs):
    """Runs that are unfinished, damaged, of another time, or no runs."""
    for name in ("young", "torn", "future", "damaged", "keyless"):
        shutil.copytree(runs / "fresh", runs / name)
    for path in (runs / "young").glob("supernet*"):
        path.unlink()
    config = (runs / "fresh/config.yaml").read_text()
    (runs / "torn/config.yaml").write_text("command: [")
    (runs / "future/config.yaml").write_text(config.replace("format: ", "format: 9"))
    (runs / "keyless/config.yaml").write_text(config.replace("recipe:", "recipes:"))
    weights = runs / "damaged/supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    shutil.copytree(runs / "a", runs / "liar")
    (runs / "liar/search/result.json").write_text('{"finalists": []}')
    shutil.copytree(runs / "a", runs / "blocked")
    (runs / "blocked/report.html").mkdir()


def entries(folder):
    """What lies where a command might leave something."""
    return sorted(path.name for place in (folder, folder / "runs") for path in place.iterdir())


USERS = [
    ("nonsense", "No such command 'nonsense'"),
    ("serch subnet", "No such command 'serch'. Did you mean 'search'?"),
    ("train supernett", "No such command 'supernett'. Did you mean 'supernet'?"),
    ("train teecher", "No such command 'teecher'. Did you mean 'teacher'?"),
    ("search --budget 25M", "No such option: --budget"),
    ("export --out x", "No such option: --out"),
    ("import zip.pt", "No such command 'zip.pt'"),
    ("demo --resume=1", "Option '--resume' does not take a value"),
    ("doctor --fix", "No such option: --fix"),
    ("doctor now", "Got unexpected extra argument(s) (now)"),
    ("doctor --format xml", "Invalid value for '--format': 'xml' is not one of 'text', 'json'"),
    ("--verison", "No such option: --verison (Possible options: --version)"),
    ("help", "No such command 'help'"),
    ("space tiny --budgets 1M", "No such option: --budgets (Possible options: --budget)"),
    ("cost tiny --seconds 1,2", "Invalid value for '--seconds': Input should be a valid number"),
    (
        "measure encoder --runtime torch --runtime onnxx",
        "--runtime torch,onnxx: no runtime `onnxx`; did you mean `onnx`?",
    ),
    ("report extra", "Got unexpected extra argument(s) (extra)"),
    ("report --run", "Option '--run' requires an argument"),
    ("report --run runs/none", "there is no run at runs/none; train one first, or check the name"),
    ("report --run empty", "empty is not a run: it has no config.yaml"),
    ("report --run text.txt", "there is no run at text.txt; train one first, or check the name"),
    ("report --rnu runs/a", "No such option: --rnu (Possible options: --run)"),
    ("report --run ''", ". is not a run: it has no config.yaml"),
    ("space", "Missing argument 'name'"),
    ("space tinny", "no space `tinny`; did you mean `tiny`? there are base, base-wavlm, demo-teacher, lighthuber"),
    ("space nowhere.yaml", "nowhere.yaml: no such file or directory"),
    ("space empty", "no space `empty`"),
    ("space text.txt", "text.txt: must hold a mapping of keys to values, got a str"),
    ("space latin.yaml", "latin.yaml: not UTF-8 text"),
    ("space twice.yaml", "twice.yaml, line 2: duplicate key `name`"),
    ("space alias.yaml", "alias.yaml, line 2: aliases are not allowed; write the value out"),
    ("space tag.yaml", "tag.yaml, line 1: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed; writ"),
    ("space list.yaml", "list.yaml: must hold a mapping of keys to values, got a list"),
    ("space nothing.yaml", "nothing.yaml: must hold a mapping of keys to values, got nothing"),
    ("space two.yaml", "two.yaml, line 2: but found another document"),
    ("space torn.yaml", "torn.yaml, line 2: expected ',' or ']', but got '<stream end>'"),
    ("space big.yaml", "big.yaml: 1,000,004 bytes; a file may have at most 1,000,000"),
    ("space lacking.yaml", "lacking.yaml: missing key `heads`"),
    ("space misspelt.yaml", "misspelt.yaml: unknown key `head`; did you mean `heads`?"),
    ("space mistyped.yaml", "mistyped.yaml: `heads` should be a valid array, got 'two'"),
    ("space negative.yaml", "negative.yaml: heads must be positive and at most 8192, got [-1, 2]"),
    ("space huge.yaml", "huge.yaml: embed_dim must be positive and at most 8192, got [1000000000000]"),
    ("space recipe.yaml", "recipe.yaml:"),
    ("space tiny tiny", "Got unexpected extra argument(s) (tiny)"),
    ("space tiny --budget", "Option '--budget' requires an argument"),
    ("space tiny --budget ''", "budget ``: not a cost, a relation and an amount"),
    ("space tiny --budget 25Q", "budget `25Q`: `25Q` is not a count: k, M, G or %"),
    ("space tiny --budget 1k", "no subnet of `tiny` has params<=1k; the smallest has 77,856 parameters"),
    ("space tiny --budget -5M", "budget `-5M`: `-5M` is not a positive number with a unit"),
    ("space tiny --budget nan", "budget `nan`: `nan` is not a positive number with a unit"),
    ("space tiny --budget inf", "budget `inf`: `inf` is not a positive number with a unit"),
    ("space tiny --budget 0", "budget `0`: the amount must be above zero"),
    (
        "space tiny --budget macs<=2G",
        "budget `macs<=2G`: macs needs a duration of audio, such as macs<=2G@1s: it does not grow i",
    ),
    ("space tiny --budget macs<=2G@", "budget `macs<=2G@`: not a cost, a relation and an amount"),
    ("space tiny --budget macs<=2G@0s", "budget `macs<=2G@0s`: the amount must be above zero"),
    ("space tiny --budget macs<=2G@9999h", "budget `macs<=2G@9999h`: `9999h` is not a time: s or ms"),
    (
        "space tiny --budget macs>=2G@1s",
        "budget `macs>=2G@1s`: write macs<=HIGH for an upper bound and macs=LOW..HIGH for a band",
    ),
    (
        "space tiny --budget params<25M",
        "budget `params<25M`: write params<=HIGH for an upper bound and params=LOW..HIGH for a band",
    ),
    (
        "space tiny --budget parms<=25M",
        "budget `parms<=25M`: unknown cost `parms`; did you mean `params`? Examples: 25M, params=24",
    ),
    (
        "space tiny --budget params=5M..1M",
        "budget `params=5M..1M`: no whole number lies from the lower end to the upper end",
    ),
    ("space tiny --budget params=1M..", "budget `params=1M..`: a band has two ends"),
    ("space tiny --budget size<=50", "budget `size<=50`: `50` is not bytes: MB or MiB"),
    ("space tiny --budget 50MB", "budget `50MB`: `50MB` is not a count: k, M, G or %; for bytes write size<=50MB"),
    ("space tiny --budget 30ms", "budget `30ms`: `30ms` is not a count: k, M, G or %; for time write latency<=30ms@1s"),
    (
        "space tiny --budget latency<=30ms",
        "budget `latency<=30ms`: latency needs a duration of audio, such as latency<=30ms@1s: it do",
    ),
    (
        "space tiny --budget latency=1ms..2ms@1s",
        "budget `latency=1ms..2ms@1s`: latency takes an upper bound, not a band",
    ),
    ("space tiny --budget 0%", "budget `0%`: the amount must be above zero"),
    (
        "space tiny --budget 1M --budget params=2M..3M",
        "no subnet of `tiny` has params<=1M and params=2M..3M together; with params=2M..3M, the sma",
    ),
    ("space tiny --budget '25 M M'", "budget `25 M M`: `25 M M` is not a positive number with a unit"),
    (
        "space tiny --budget 'params<=25M@1s'",
        "budget `params<=25M@1s`: params does not depend on the duration; leave out the @1s",
    ),
    ("space tiny --format xml", "Invalid value for '--format': 'xml' is not one of 'text', 'json'"),
    ("space tiny --format", "Option '--format' requires an argument"),
    ("space --budget 1M", "Missing argument 'name'"),
    ("cost", "give a space, as in `nestling cost base`, or the --run whose space it is; not both"),
    ("cost tiny --run runs/a", "give a space, as in `nestling cost base`, or the --run whose space it is; not both"),
    ("cost tiny --space base", "two spaces were given, tiny and base; leave out one"),
    ("cost tiny --subnet best", "--subnet best: give largest, smallest or a subnet.json; best and ids are of a --run"),
    ("cost --run runs/none", "there is no run at runs/none; train one first, or check the name"),
    ("cost --run runs/fresh --subnet best", "runs/fresh was not searched yet; run `nestling search subnet"),
    ("cost --run runs/a --subnet zzz", "with an id that starts with 'zzz'; give best, largest, smallest, another id"),
    (
        "space tiny --budget 25",
        "no subnet of `tiny` has params<=25; the smallest has 77,856 parameters; 25 parameters? write 25M",
    ),
    ("space tiny --budget 25MM", "budget `25MM`: `25MM` is not a count: k, M, G or %; did you mean 25M?"),
    ("space tiny --budget macs<=2@1s", "2 MACs for 1 s? write 2M"),
    ("space tiny --budget 1M,params=2M..3M", "has params<=1M and params=2M..3M together"),
    ("demo --resume --run runs/none", "there is no run at runs/none; train one first, or check the name"),
    ("demo --resume --run runs/a", "runs/a is no run of `demo`: it began with nestling train supernet"),
    ("search subnet --run runs/a --sampler nsga", "--sampler nsga: choices are auto, evolution, random"),
    (
        "cost --space tinny",
        "no space `tinny`; did you mean `tiny`? there are base, base-wavlm, demo-teacher, lighthuber",
    ),
    ("cost --space", "Option '--space' requires an argument"),
    ("cost --space tiny --subnet largst", "--subnet largst: give largest, smallest or a subnet.json"),
    ("cost --space tiny --subnet nowhere.json", "--subnet nowhere.json: give largest, smallest or a subnet.json"),
    (
        "cost --space tiny --subnet broken.json",
        "broken.json holds no subnet of tiny: subnet: should be an object, got []",
    ),
    ("cost --space tiny --subnet text.txt", "text.txt holds no subnet of tiny: text.txt: not JSON"),
    ("cost --space tiny --subnet empty", "--subnet empty: give largest, smallest or a subnet.json"),
    (
        "cost --space tiny --subnet other.json",
        "other.json holds no subnet of tiny: embed_dim=7 is not in the space; choices are (64, 96,",
    ),
    ("cost --space tiny --subnet deep.json", "deep.json holds no subnet of tiny: deep.json: not JSON"),
    ("cost --space tiny --subnet binary.bin", "binary.bin: not UTF-8 text"),
    ("cost --space tiny --seconds 0", "0 s of audio: need at least one frame and at most 3600 s"),
    ("cost --space tiny --seconds -1", "-1 s of audio: need at least one frame and at most 3600 s"),
    ("cost --space tiny --seconds nan", "nan s of audio: need at least one frame and at most 3600 s"),
    ("cost --space tiny --seconds inf", "inf s of audio: need at least one frame and at most 3600 s"),
    ("cost --space tiny --seconds 1e9", "1e+09 s of audio: need at least one frame and at most 3600 s"),
    ("cost --space tiny --seconds one", "Invalid value for '--seconds': Input should be a valid number"),
    ("cost --space tiny --seconds 0.001", "0.001 s of audio: need at least one frame and at most 3600 s"),
    ("cost --space tiny --cross-chek", "No such option: --cross-chek (Possible options: --cross-check)"),
    (
        "train supernet --space tinny",
        "no space `tinny`; did you mean `tiny`? there are base, base-wavlm, demo-teacher, lighthuber",
    ),
    ("train supernet --space text.txt", "text.txt: must hold a mapping of keys to values, got a str"),
    (
        "train supernet --config demp",
        "no recipe `demp`; did you mean `demo`? there are demo, hubert-next, hubert, lighthubert, tw",
    ),
    ("train supernet --config nowhere.yaml", "no recipe `nowhere.yaml`"),
    ("train supernet --config handful.yaml", "handful.yaml:"),
    ("train supernet --config text.txt", "text.txt: must hold a mapping of keys to values, got a str"),
    (
        "train supernet --config stageless.yaml",
        "stageless.yaml: `stages` Tuple should have at least 1 item after validation, not 0, got []",
    ),
    (
        "train supernet --config doubled.yaml",
        "doubled.yaml: stages need names of their own, and none may be `done` or a key of the recipe; got stage-1,",
    ),
    ("train supernet --config sourceless.yaml", "sourceless.yaml:"),
    ("train supernet --config kinds.yaml", "kinds.yaml:"),
    (
        "train supernet --config done.yaml",
        "done.yaml: stages need names of their own, and none may be `done` or a key of the recipe; got stage-1, done",
    ),
    ("train supernet --set", "Option '--set' requires an argument"),
    ("train supernet --set stage-1.stepps=3", "two-stage: unknown key `stage-1.stepps`; did you mean `steps`?"),
    ("train supernet --set stage-1.steps=x", "two-stage: `stage-1.steps` should be a valid integer, got 'x'"),
    ("train supernet --set stage-1.steps=0", "two-stage: `stage-1.steps` should be greater than or equal to 1, got 0"),
    (
        "train supernet --set stage-1.steps=-1",
        "two-stage: `stage-1.steps` should be greater than or equal to 1, got -1",
    ),
    ("train supernet --set stage-1.steps=1.5", "two-stage: `stage-1.steps` should be a valid integer, got 1.5"),
    ("train supernet --set stage-1.steps=1e99", "two-stage: `stage-1.steps` should be a valid integer, got 1e+99"),
    ("train supernet --set stage-1.steps", "--set stage-1.steps: want path.to.key=value, such as stage-1.steps=100"),
    ("train supernet --set =3", "--set =3: want path.to.key=value, such as stage-1.steps=100"),
    ("train supernet --set stage-9.steps=3", "two-stage: unknown key `stage-9`; did you mean `stages`?"),
    (
        "train supernet --set stage-1.view.mask_share=2",
        "two-stage: `stage-1.view.mask_share` should be less than or equal to 1, got 2",
    ),
    ("train supernet --set stage-1.view=3", "two-stage: `stage-1.view` should be an object, got 3"),
    ("train supernet --set stage-1=3", "two-stage: unknown key `stage-1`; did you mean `stages`?"),
    ("train supernet --set stages=3", "two-stage: `stages` should be a valid array, got 3"),
    (
        "train supernet --set stage-1.learning_rate=nan",
        "two-stage: `stage-1.learning_rate` should be a valid number, got 'nan'",
    ),
    (
        "train supernet --set stage-1.learning_rate=.nan",
        "two-stage: `stage-1.learning_rate` should be a finite number, got nan",
    ),
    (
        "train supernet --set stage-1.learning_rate=-1",
        "two-stage: `stage-1.learning_rate` should be greater than 0, got -1",
    ),
    (
        "train supernet --set stage-1.learning_rate=[1",
        "--set stage-1.learning_rate=[1, line 1: expected ',' or ']', but got '<stream end>'",
    ),
    (
        "train supernet --set stage-1.objective.9.source=teacher",
        "--set stage-1.objective.9.source=teacher: there is nothing at `9`; stages are stage-1, sta",
    ),
    (
        "train supernet --set stage-1.batch_size=99999999",
        "two-stage: `stage-1.batch_size` should be less than or equal to 65536, got 99999999",
    ),
    (
        "train supernet --set stage-1.crop_seconds=0",
        "two-stage: `stage-1.crop_seconds` should be greater than 0.1, got 0",
    ),
    (
        "train supernet --set stage-1.subnets=all",
        "two-stage: `stage-1.subnets` should be 'container' or 'sandwich', got 'all'",
    ),
    ("train supernet --set seed=x", "two-stage: `seed` should be a valid integer, got 'x'"),
    ("train supernet --set 'a b=3'", "two-stage: unknown key `a b`; there are description, save_every, seed, stages"),
    ("train supernet --seed 1.5", "Invalid value for '--seed': Input should be a valid integer"),
    ("train supernet --seed x", "Invalid value for '--seed': Input should be a valid integer"),
    ("train supernet --precision fp8", "--precision is fp32, bf16 or auto; got fp8"),
    ("train supernet --precision fp16", "--precision is fp32, bf16 or auto; got fp16"),
    ("train supernet --device cdua", "cannot compute on 'cdua'"),
    ("train supernet --device cuda:99", "cannot compute on 'cuda:99'"),
    ("train supernet --device meta", "cannot compute on 'meta'"),
    ("train supernet --device ''", "cannot compute on ''"),
    ("train supernet --device cpu:x", "cannot compute on 'cpu:x'"),
    (
        "train supernet {job} --teacher teacher --audio nowhere",
        "nowhere is neither a folder of audio nor a manifest; it does not exist",
    ),
    ("train supernet {job} --teacher teacher --audio empty", "{here}/empty holds no wav, flac, mp3, ogg or opus file"),
    ("train supernet {job} --teacher teacher --audio text.txt", "nothing in {here}/text.txt can be used:"),
    ("train supernet {job} --teacher teacher --audio binary.bin", "nothing in {here}/binary.bin can be used:"),
    ("train supernet {job} --teacher teacher --audio manifest.jsonl", "nothing in {here}/manifest.jsonl can be used:"),
    ("train supernet {job} --teacher teacher --audio gone.jsonl", "nothing in {here}/gone.jsonl can be used:"),
    ("train supernet {job} --teacher teacher --audio noise", "nothing in {here}/noise can be used:"),
    ("train supernet {job} --teacher teacher --audio ''", "`` is neither a folder of audio nor a manifest"),
    ("train supernet --teacher nowhere {job}", "there is no folder nowhere,"),
    (
        "train supernet --teacher empty {job}",
        "{here}/empty has no config.json; a model in Hugging Face format is wanted",
    ),
    ("train supernet --teacher text.txt {job}", "{here}/text.txt is no file of weights"),
    ("train supernet --teacher binary.bin {job}", "{here}/binary.bin is no checkpoint that torch.save writes"),
    ("train supernet --teacher cut {job}", "{here}/cut/model.bin is truncated: 26 bytes are left of it"),
    ("train supernet --teacher translator {job}", "{here}/translator/model.bin is a TransformerSpec of CTranslate2;"),
    ("train supernet --teacher no/such-model {job}", "there is no folder no/such-model,"),
    ("train supernet --teacher weightless {job}", "{here}/weightless has no weights"),
    ("train supernet --teacher textmodel {job}", "{here}/textmodel: transformers cannot open it"),
    ("train supernet --teacher jsonless {job}", "{here}/jsonless/config.json is not JSON"),
    ("train supernet --teacher garbled {job}", "{here}/garbled/model.safetensors is no safetensors file"),
    ("train supernet --teacher '' {job}", "stage-1.sources.teacher is a teacher, and none was given"),
    ("train supernet --teacher demo@main {job}", "there is no folder demo@main,"),
    (
        "train supernet --run runs/a {job}",
        "runs/a already holds a run; go on with it (nestling train supernet --run runs/a --resume), or name",
    ),
    ("train supernet --run full {job}", "full is not empty (mine.txt …) and not a run"),
    ("train supernet --run text.txt {job}", "--run text.txt is a file, and a folder is to be written"),
    ("train supernet --run text.txt/a {job}", "--run text.txt/a cannot be written: Not a directory"),
    ("train supernet --run runs/none --resume", "there is no run at runs/none; train one first, or check the name"),
    ("train supernet --run empty --resume", "empty is not a run: it has no config.yaml"),
    ("train supernet --run runs/a --resume --space tiny", "rules out --space tiny (the run has handful)"),
    ("train supernet --run runs/a --resume --set stage-1.steps=7", "rules out --set stage-1.steps=7 (the run has 1)"),
    ("train supernet --run runs/a --resume --teacher demo", "rules out --teacher demo"),
    ("train supernet --run runs/a --resume --seed 9", "rules out --seed 9 (the run has 0)"),
    ("train supernet --run runs/a --resume --dry-run", "--dry-run tells what a new run would take; leave out --resume"),
    ("train supernet --run runs/a --resume --device meta", "cannot compute on 'meta'"),
    ("train supernet --dryrun", "No such option: --dryrun (Possible options: --dry-run, --run)"),
    ("train supernet extra", "Got unexpected extra argument(s) (extra)"),
    ("train supernet --resume=yes", "Option '--resume' does not take a value"),
    (
        "train teacher --space tinny",
        "no space `tinny`; did you mean `tiny`? there are base, base-wavlm, demo-teacher, lighthuber",
    ),
    ("train teacher --config nowhere", "no recipe `nowhere`"),
    ("train teacher {job} --init nowhere", "there is no folder nowhere,"),
    ("train teacher --run runs/a --resume", "runs/a is no run of `train teacher`"),
    ("train teacher --teacher demo", "No such option: --teacher (Possible options: --space)"),
    (
        "train teacher {job} --run runs/t",
        "stage-1.sources.teacher is a teacher, and none was given",
    ),
    ("import supernet", "Missing argument 'file'"),
    ("import supernet nowhere.pt --run runs/i", "there is no file nowhere.pt"),
    ("import supernet text.txt --run runs/i", "text.txt is no checkpoint that torch.save writes"),
    ("import supernet binary.bin --run runs/i", "binary.bin is no checkpoint that torch.save writes"),
    ("import supernet empty --run runs/i", "there is no file empty"),
    ("import supernet zip.pt --run runs/i", "zip.pt is a zip archive, but no checkpoint that torch.save writes"),
    ("import supernet text.txt", "Missing option '--run'"),
    ("import supernett text.txt", "No such command 'supernett'. Did you mean 'supernet'?"),
    ("search subnet --run runs/none", "there is no run at runs/none; train one first, or check the name"),
    ("search subnet --run empty", "empty is not a run: it has no config.yaml"),
    ("search subnet --run ''", ". is not a run: it has no config.yaml"),
    (
        "search subnet --run runs/a --budget 1k",
        "no subnet of `handful` has params<=1k; the smallest has 2,472 parameters",
    ),
    ("search subnet --run runs/a --budget 25Q", "budget `25Q`: `25Q` is not a count: k, M, G or %"),
    (
        "search subnet --run runs/a --budget 8k --budgets 8k,9k",
        "--budget is for what must hold together, --budgets for alternatives; give one of them",
    ),
    ("search subnet --run runs/a --budgets 8k,", "budget ``: not a cost, a relation and an amount"),
    (
        "search subnet --run runs/a --budgets 8k,1k",
        "no subnet of `handful` has params<=1k; the smallest has 2,472 parameters",
    ),
    ("search subnet --run runs/a --budgets ,", "budget ``: not a cost, a relation and an amount"),
    (
        "search subnet --run runs/a --trials 0",
        "Invalid value for '--trials': Input should be greater than or equal to 1, got '0'",
    ),
    (
        "search subnet --run runs/a --trials -1",
        "Invalid value for '--trials': Input should be greater than or equal to 1",
    ),
    (
        "search subnet --run runs/a --trials x",
        "Invalid value for '--trials': Input should be a valid integer, unable to parse string as an integer, got 'x'",
    ),
    (
        "search subnet --run runs/a --utterances 0",
        "Invalid value for '--utterances': Input should be greater than or equal to 1",
    ),
    (
        "search subnet --run runs/a --sampler evo",
        "--sampler evo: choices are auto, evolution, random, optuna:nsga2, optuna:tpe, optuna:rando",
    ),
    ("search subnet --run runs/a --sampler optuna", "no sampler optuna:"),
    ("search subnet --run runs/a --sampler optuna:", "no sampler optuna:"),
    ("search subnet --run runs/a --sampler optuna:tp", "no sampler optuna:tp"),
    (
        "search subnet --run runs/a --sampler random:x",
        "--sampler random:x: choices are auto, evolution, random, optuna:nsga2, optuna:tpe, optuna:",
    ),
    (
        "search subnet --run runs/a --objective phone",
        "no objective `phone`; did you mean `phones`? there are readout, proxy, phones, words, i",
    ),
    (
        "search subnet --run runs/a --objective ''",
        "no objective ``; there are readout, proxy, phones, words, intent, keywords, speakers, v",
    ),
    ("search subnet --run runs/a --device meta", "cannot compute on 'meta'"),
    ("search subnet --run runs/a --device cuda:99", "cannot compute on 'cuda:99'"),
    (
        "search subnet --run runs/a --audio nowhere",
        "nowhere is neither a folder of audio nor a manifest; it does not exist",
    ),
    (
        "search subnet --run runs/a --audio other",
        "--audio other is not the audio of runs/a, {here}/audio, moved: it differs",
    ),
    ("search subnet --run runs/a --seed x", "Invalid value for '--seed': Input should be a valid integer"),
    ("search subnet --run runs/a --bugdet 8k", "No such option: --bugdet (Possible options: --budget, --budgets)"),
    ("search subnet --run runs/a --format yaml", "Invalid value for '--format': 'yaml' is not one of 'text', 'json'"),
    ("search subnet --run runs/young", "runs/young has no supernet yet; finish its training, or name another run"),
    (
        "search subnet --run runs/torn",
        "runs/torn/config.yaml, line 1: expected the node content, but found '<stream end>'",
    ),
    ("search subnet runs/a", "Got unexpected extra argument(s) (runs/a)"),
    ("export subnet", "Missing option '--out'"),
    ("export subnet --out", "Option '--out' requires an argument"),
    ("export subnet --out '' --run runs/a", "{here} is where you are, and an export replaces its folder"),
    ("export subnet --out . --run runs/a", "{here} is where you are, and an export replaces its folder"),
    ("export subnet --out text.txt --run runs/a", "--out text.txt is a file, and a folder is to be written"),
    ("export subnet --out full --run runs/a", "full holds mine.txt, which is no part of an export"),
    (
        "export subnet --out runs/a --run runs/a",
        "runs/a is or contains the run runs/a, and an export replaces its folder",
    ),
    ("export subnet --out text.txt/x --run runs/a", "--out text.txt/x cannot be written: Not a directory"),
    ("export subnet --out x --run runs/none", "there is no run at runs/none; train one first, or check the name"),
    (
        "export subnet --out x --run runs/young",
        "runs/young has no supernet yet; finish its training, or name another run",
    ),
    (
        "export subnet --out x --run runs/fresh",
        "runs/fresh was not searched yet; run `nestling search subnet --budget …` first",
    ),
    (
        "export subnet --out x --run runs/a --subnet zzz",
        "no subnet in runs/a/search/candidates.jsonl with an id that starts with 'zzz'; give best",
    ),
    (
        "export subnet --out x --run runs/a --subnet ''",
        "no subnet in runs/a/search/candidates.jsonl with an id that starts with ''; give best",
    ),
    (
        "export subnet --out x --run runs/a --subnet broken.json",
        "broken.json holds no subnet of handful: subnet: should be an object, got []",
    ),
    (
        "export subnet --out x --run runs/a --subnet other.json",
        "other.json holds no subnet of handful: 6 layers are not in the space; choices are (1, 2)",
    ),
    ("export subnet --out x --run runs/a --subnet text.txt", "text.txt holds no subnet of handful: text.txt: not JSON"),
    (
        "export subnet --out x --run runs/a --subnet empty",
        "no subnet in runs/a/search/candidates.jsonl with an id that starts with 'empty'; give best",
    ),
    (
        "export subnet --out x --run runs/a --to onxx",
        "--to onxx: no such target; did you mean `onnx`? there are hf, onnx, int8, s3prl",
    ),
    ("export subnet --out x --run runs/a --to ''", "--to : no such target; there are hf, onnx, int8, s3prl"),
    (
        "export subnet --out x --run runs/a --to hf,",
        "--to : no such target; there are hf, onnx, int8, s3prl",
    ),
    (
        "export subnet --out x --run runs/a --to onnx --to int9",
        "--to int9: no such target; did you mean `int8`? there are hf, onnx, int8, s3prl",
    ),
    (
        "export subnet --out x --run runs/a --format xml",
        "Invalid value for '--format': 'xml' is not one of 'text', 'json'",
    ),
    ("export subnet --ouy x", "No such option: --ouy (Possible options: --out, --run, --to)"),
    (
        "export subnet --out x --run runs/damaged",
        "runs/damaged/supernet.safetensors is damaged: it fails the SHA-256 of supernet.json",
    ),
    ("evaluate", "Missing argument 'sources'"),
    ("evaluate nowhere", "there is no folder nowhere,"),
    ("evaluate empty", "empty has no config.json; a model in Hugging Face format is wanted"),
    ("evaluate text.txt", "text.txt is no file of weights"),
    ("evaluate binary.bin", "binary.bin is no checkpoint that torch.save writes"),
    ("evaluate translator", "translator/model.bin is a TransformerSpec of CTranslate2; WhisperSpec is wanted"),
    ("evaluate cut", "cut/model.bin is truncated: 26 bytes are left of it"),
    ("evaluate untrained:cut/model.bin", "cut/model.bin is truncated: 26 bytes are left of it"),
    (
        "evaluate encoder --task phone",
        "no task `phone`; did you mean `phones`? there are phones, keywords, intent, verificati",
    ),
    (
        "evaluate encoder --task ''",
        "no task ``; there are phones, keywords, intent, verification, speakers, characters, sl",
    ),
    (
        "evaluate encoder --task phones,fones",
        "no task `fones`; did you mean `phones`? there are phones, keywords, intent, verificati",
    ),
    ("evaluate encoder --split train", "Invalid value for '--split': 'train' is not one of 'test', 'dev', 'both'"),
    ("evaluate encoder --reference demo", "the reference `demo` is not among the encoders"),
    ("evaluate encoder --reference ''", "the reference `` is not among the encoders"),
    (
        "evaluate encoder --librispeech nowhere",
        "LibriSpeech needs train-clean-100 or train-clean-360 or train-other-500: there is no such",
    ),
    (
        "evaluate encoder --librispeech empty",
        "LibriSpeech needs train-clean-100 or train-clean-360 or train-other-500: there is no such",
    ),
    (
        "evaluate encoder --speech-commands nowhere --task keywords",
        "Speech Commands needs the file testing_list.txt, which nowhere has not; give the folder it",
    ),
    ("evaluate encoder --out text.txt", "--out text.txt is a file, and a folder is to be written"),
    ("evaluate encoder --out text.txt/x", "--out text.txt/x cannot be written: Not a directory"),
    ("evaluate untrained:nowhere", "there is no folder nowhere,"),
    ("evaluate untrained:", ". has no config.json; a model in Hugging Face format is wanted"),
    ("evaluate log-mell", "there is no folder log-mell,"),
    ("evaluate demo@main", "there is no folder demo@main,"),
    ("evaluate no/such-model", "there is no folder no/such-model,"),
    ("evaluate runs/a", "runs/a has no config.json; a model in Hugging Face format is wanted"),
    ("evaluate encoder --layer", "No such option: --layer (Possible options: --layers)"),
    ("measure", "Missing argument 'sources'"),
    ("measure nowhere", "there is no folder nowhere,"),
    ("measure empty", "empty has no config.json; a model in Hugging Face format is wanted"),
    ("measure text.txt", "text.txt is no file of weights"),
    ("measure translator", "translator/model.bin is a TransformerSpec of CTranslate2; WhisperSpec is wanted"),
    ("measure cut", "cut/model.bin is truncated: 26 bytes are left of it"),
    ("measure encoder --runtime tensorflow", "--runtime tensorflow: no runtime `tensorflow`"),
    (
        "measure encoder --runtime onnx",
        "encoder has no model.onnx, which the runtime onnx wants; `nestling export subnet --to onnx",
    ),
    (
        "measure encoder --runtime onnx-int8",
        "encoder has no model.int8.onnx, which the runtime onnx-int8 wants; `nestling export subnet",
    ),
    ("measure encoder --threads 0", "--threads 0: `0` is neither all nor a number"),
    ("measure encoder --threads -1", "--threads -1: `-1` is neither all nor a number"),
    ("measure encoder --threads x", "--threads x: `x` is neither all nor a number"),
    ("measure encoder --threads ''", "--threads : `` is neither all nor a number"),
    ("measure encoder --threads 1,", "--threads 1,: `` is neither all nor a number"),
    ("measure encoder --threads 99999", "--threads 99999: `99999` is neither all nor a number"),
    ("measure encoder --seconds 0", "--seconds 0: `0` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --seconds x", "--seconds x: `x` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --seconds inf", "--seconds inf: `inf` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --seconds nan", "--seconds nan: `nan` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --seconds ''", "--seconds : `` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --seconds 1e9", "--seconds 1e9: `1e9` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --seconds 1,,2", "--seconds 1,,2: `` is no number from 0.025, which one frame needs, to 3600"),
    ("measure encoder --repeats 0", "--repeats must be at least 3, got 0"),
    ("measure encoder --repeats 2", "--repeats must be at least 3, got 2"),
    (
        "measure encoder --repeats x",
        "Invalid value for '--repeats': Input should be a valid integer, unable to parse string as",
    ),
    ("measure encoder --repeats 5 --quick", "--quick and --repeats both say how many rounds; give one of them"),
    ("measure encoder --out text.txt/x.json", "--out text.txt/x.json cannot be written: Not a directory"),
    ("measure encoder --out empty", "--out empty is a folder, and a file is to be written"),
    ("measure log-mel", "there is no folder log-mel,"),
    ("measure runs/a", "runs/a has no config.json; a model in Hugging Face format is wanted"),
    ("demo --quick=1", "Option '--quick' does not take a value"),
    ("demo --budget 25Q", "budget `25Q`: `25Q` is not a count: k, M, G or %"),
    ("demo --budget 1", "no subnet of `tiny` has params<=1; the smallest has 77,856 parameters"),
    ("demo --quick --run text.txt/x", "--run text.txt/x cannot be written: Not a directory"),
    ("demo --budget 1M,25Q", "budget `25Q`: `25Q` is not a count: k, M, G or %"),
    ("demo extra", "Got unexpected extra argument(s) (extra)"),
    ("report --run runs/torn", "runs/torn/config.yaml, line 1: expected the node content, but found '<stream end>'"),
    ("report --run runs/young --format yaml", "Invalid value for '--format': 'yaml' is not one of 'text', 'json'"),
    ("--no-such-option", "No such option: --no-such-option"),
    ("-h", "No such option: -h"),
    ("space deep.yaml", "deep.yaml: nested too deeply"),
    ("space nan.yaml", "nan.yaml: "),
    ("train supernet --space ''", "no space"),
    (
        "train supernet {job} --teacher teacher --set stage-2.sources.codes.layer=99",
        "stage-2.sources.codes.layer must be from 0, the input of the first layer, to 2, ",
    ),
    ("measure encoder --runtime ''", "--runtime : no runtime ``"),
    ("search subnet --run runs/future", "format"),
    ("report --run runs/future", "format"),
    ("search subnet --run runs/keyless", "runs/keyless/config.yaml: missing key `recipe`"),
    ("search subnet --run runs/a --audio ''", "`` is neither a folder of audio nor a manifest"),
    ("export subnet --out x --run runs/keyless --subnet subnet.json", "runs/keyless/config.yaml: missing key `recipe`"),
    ("export subnet --out x --run runs/liar", "runs/liar/search/result.json"),
    *(
        (f"{command} {'x' * 300}", "File name too long; ")
        for command in (
            "report --run",
            "space",
            "train supernet --run",
            "train supernet --config",
            "train supernet --audio",
            "train supernet {job} --teacher",
            "train teacher --out",
            "import supernet zip.pt --run",
            "cost --space tiny --subnet",
            "evaluate",
            "measure",
            "demo --quick --run",
        )
    ),
    *(
        (f"train {what} {{job}} --dry-run --audio {audio}", message)
        for what in ("supernet", "teacher")
        for audio, message in (
            ("nowhere", "nowhere is neither a folder of audio nor a manifest; it does not exist"),
            ("''", "`` is neither a folder of audio nor a manifest; name one"),
            ("empty", "empty holds no wav, flac, mp3, ogg or opus file (it holds no file at all); convert it to flac"),
        )
    ),
    ("evaluate mfcc --out loop", "--out loop cannot be written: Too many levels of symbolic links; name another place"),
    ("train teacher --out loop", "--out loop cannot be written: Too many levels of symbolic links; name another place"),
    ("export subnet --run runs/a --out loop", "--out loop cannot be written: Too many levels of symbolic links"),
    ("train supernet --run loop/x", "--run loop/x cannot be written: Too many levels of symbolic links"),
    ("train supernet --run loop", "--run loop cannot be written: Too many levels of symbolic links"),
    ("measure encoder --out loop", "--out loop cannot be written: Too many levels of symbolic links"),
    ("report --run runs/liar", "runs/liar/search/result.json"),
]
"""What was typed -> what is said of it; {job} is a whole training job but for its teacher, {here} the folder."""
MACHINES = [
    ("report --run runs/blocked", "report.html"),
]
"""What was right, and could not be done here."""


@pytest.mark.parametrize(("command", "message", "code"), [(*c, 2) for c in USERS] + [(*c, 1) for c in MACHINES])
def test_a_mistake_ends_in_a_few_lines_that_name_it(shell, command, message, code):
    before = entries(shell.folder)
    said = shell(command.replace("{job}", JOB))
    lines = said.err.splitlines()
    assert (said.code, said.out) == (code, ""), said.err
    assert len(lines) <= 6, said.err
    first = next(line for line in lines if line.startswith("error: "))
    assert message.replace("{here}", str(shell.folder)) in first
    assert "Traceback" not in said.err
    assert "fault of Nestling" not in said.err
    assert max(map(len, lines)) <= 620
    assert entries(shell.folder) == before


def test_the_catalogue_is_large():
    """And holds nothing twice."""
    assert len({command for command, _ in USERS + MACHINES}) == len(USERS + MACHINES) >= 150
