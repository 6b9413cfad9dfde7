"""What every test runs under: no network, and no traces outside temporary folders."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
# Where transformers puts the code of exported folders. It reads this when it is first imported.
_modules = tempfile.TemporaryDirectory(prefix="modules-")
os.environ["HF_MODULES_CACHE"] = _modules.name
