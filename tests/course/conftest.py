"""For those who run the graders with pytest: where the scripts are."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
