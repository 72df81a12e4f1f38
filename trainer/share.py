"""The former name of trainer/convert.py for runs of trainer/eeg2meg.py, for one more release."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_command
from trainer.convert import main

if __name__ == "__main__":
    print("trainer/share.py is called trainer/convert.py now", flush=True)
    run_command(main)
