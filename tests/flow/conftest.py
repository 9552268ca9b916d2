"""Under pytest's importlib mode a test folder is on no path: this puts `flow_support` within reach of its tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
