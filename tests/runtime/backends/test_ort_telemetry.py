"""ONNX Runtime is imported with its telemetry off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from omnigen2_rt.runtime.backends.ort import TELEMETRY_SWITCH

IMPORT = "import os; from omnigen2_rt.runtime.backends.ort import import_onnxruntime; import_onnxruntime()"


@pytest.mark.parametrize(("own", "then"), [(None, "1"), ("0", "0")])
def test_onnxruntime_import_switches_telemetry_off_unless_the_user_has_chosen(own: str | None, then: str) -> None:
    """It looked for its server's address some seconds after the import."""
    environment = {name: value for name, value in os.environ.items() if name != TELEMETRY_SWITCH}
    if own is not None:
        environment[TELEMETRY_SWITCH] = own
    command = [sys.executable, "-c", f"{IMPORT}; print(os.environ['{TELEMETRY_SWITCH}'])"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == then
