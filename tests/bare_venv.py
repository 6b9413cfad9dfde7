"""Opens an export where only torch, transformers and safetensors are installed, and compares it with the supernet.

Run it in this project's environment: python tests/bare_venv.py RUN. The bare environment is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACKAGES = ("torch", "transformers", "safetensors")
TOLERANCE = 1e-5  # of the RMS

BARE = """
import importlib.util, json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModel

assert not any(importlib.util.find_spec(name) for name in ("supernet", "search_spaces", "checkpoints", "cli"))
folder, expected = sys.argv[1], load_file(sys.argv[2])
model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
wave, mask = expected["wave"], expected["mask"]
with torch.no_grad():
    hidden = model.eval()(wave, attention_mask=mask, output_hidden_states=True).hidden_states
valid = expected["valid"]
worst = 0.0
for i, state in enumerate(hidden):
    reference = expected[f"hidden.{i}"][valid]
    worst = max(worst, ((state[valid] - reference).abs().max() / reference.square().mean().sqrt()).item())
assert f"hidden.{len(hidden)}" not in expected
print(json.dumps({"model": type(model).__name__, "hidden_states": len(hidden), "error": worst}))
"""


def main() -> None:
    """Makes the bare environment, runs it, and fails if the outputs differ."""
    import json

    import torch
    from safetensors.torch import save_file

    from checkpoints.run_folder import RunFolder
    from nestling.workflows.search_result import find_subnet

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder with an export in RUN/encoder")
    run = RunFolder.open(parser.parse_args().run)
    supernet = run.load_supernet()
    subnet = find_subnet(run.search_path, "best", supernet.space)
    lengths = torch.tensor([32_000, 21_000])
    wave = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(32_000) < lengths.unsqueeze(1)
    wave *= mask
    with torch.no_grad():
        trace = supernet(wave, lengths, subnet)
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / "expected.safetensors"
        tensors = {f"hidden.{i}": x.contiguous() for i, x in enumerate(trace.hidden)}
        save_file({**tensors, "wave": wave, "mask": mask.long(), "valid": trace.valid}, expected)
        bare = Path(folder) / "bare"
        venv.create(bare, with_pip=True)
        python = bare / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        constraints = Path(__file__).parent.parent / "constraints.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, *PACKAGES], check=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [python, "-c", BARE, (run.path / "encoder").resolve(), expected],
            check=True,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
    result = json.loads(done.stdout)
    print(f"bare environment: {result}")
    if result["error"] > TOLERANCE:
        sys.exit(f"outputs differ by {result['error']:.1e} of the RMS; at most {TOLERANCE:.0e} is allowed")


if __name__ == "__main__":
    main()
