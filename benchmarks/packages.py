"""Build layers of packages that real images ship; needs mmdebstrap, pip and npm.

In: an empty working directory.  Out: one uncompressed tar.  Python versions are pinned, and npm
packages are pinned by a date, so equal recipes give equal layers while the registries keep the
packages.  Debian's archive keeps only current versions, so its layer changes with point releases.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.tarball import EPOCH, LayerTar, tree_tar

DEBIAN_SUITE = "bookworm"

PYTHON_PACKAGES = """
    contourpy==1.3.3 cycler==0.12.1 filelock==4.2.12 fonttools==4.68.0 fsspec==2026.9.0
    jinja2==3.1.6 joblib==1.6.0 kiwisolver==1.5.1 MarkupSafe==3.0.4 matplotlib==3.11.2
    mpmath==1.3.0 networkx==3.6.1 numpy==2.4.6 packaging==26.3 pandas==3.1.1 pillow==13.0.0
    pyarrow==26.0.1 pyparsing==3.3.3 python-dateutil==4.0.0 pyyaml==6.0.3 regex==2026.11.15
    safetensors==0.8.0 scikit-learn==1.9.1 scipy==1.17.1 setuptools==84.2.1 sympy==1.14.0
    threadpoolctl==3.8.0 tokenizers==0.23.3 torch==2.13.0 tqdm==4.70.1 transformers==5.23.0
    typing-extensions==4.16.0 tzdata==2026.6
""".split()  # noqa: SIM905 - easier to edit as text
"""A closed set, installed without dependencies: torch's own would be gigabytes of CUDA.  The CPU
build is meant; say where pip finds its wheel with PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL."""

NODE_BEFORE = "2025-06-01"
NODE_PACKAGES = """
    @angular/cli @angular/core @babel/preset-env @mui/icons-material @mui/material core-js date-fns
    eslint jest lodash lucide-react next react react-dom rxjs typescript webpack
""".split()  # noqa: SIM905 - easier to edit as text


def debian(work: Path) -> LayerTar:
    """Bootstrap Debian's minimal base system."""
    path = work / "layer.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root"]
    _run([*command, DEBIAN_SUITE, str(path)], work, SOURCE_DATE_EPOCH=str(EPOCH))
    with tarfile.open(path) as tar:
        return LayerTar(path, sum(1 for _ in tar))


def python_ml(work: Path) -> LayerTar:
    """Install numerical Python: a few very large files and many small ones."""
    target = work / "site-packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    _run([*command, "--target", str(target), *PYTHON_PACKAGES], work)
    return tree_tar(target, "usr/lib/python3/site-packages", work / "layer.tar")


def node(work: Path) -> LayerTar:
    """Install a front-end project's dependencies: more than 80 thousand small files."""
    (work / "package.json").write_text('{"name":"app","version":"1.0.0","private":true}')
    command = ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
    command += [f"--before={NODE_BEFORE}", f"--cache={work / 'npm-cache'}"]
    _run([*command, *NODE_PACKAGES], work)
    return tree_tar(work / "node_modules", "srv/app/node_modules", work / "layer.tar")


def _run(command: list[str], work: Path, **environment: str) -> None:
    environ = os.environ | environment
    subprocess.run(command, cwd=work, env=environ, check=True, stdout=sys.stderr)
