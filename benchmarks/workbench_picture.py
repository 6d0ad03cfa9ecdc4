"""Take README's picture of the workbench: its notebook in a real JupyterLab, 1,400 pixels wide.

The browser test of the workbench takes it; here it gets a palette, which a page loads sooner.

    python benchmarks/workbench_picture.py
"""

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tqlearn.writing import write

ROOT = Path(__file__).parents[1]
TEST = "tests/browser/test_workbench_browser.py"
SHOT = ROOT / "test-results" / "browser" / "workbench_light_1400.png"
PICTURE = ROOT / "docs" / "images" / "workbench.png"
MOST = 200_000  # bytes


def shrunk(shot: Path) -> bytes:
    """A picture with as many colors as its page needs.

    Raises:
        ValueError: it is larger than a README's picture may be.
    """
    kept = io.BytesIO()
    Image.open(shot).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        kept, "PNG", optimize=True
    )
    if len(kept.getvalue()) > MOST:
        raise ValueError(f"the picture has {len(kept.getvalue()):,} bytes, at most {MOST:,} may be")
    return kept.getvalue()


if __name__ == "__main__":
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "browser", TEST]
    if code := subprocess.run(pytest, cwd=ROOT).returncode:
        sys.exit(code)
    write(PICTURE, shrunk(SHOT))
