#!/bin/sh
# What the Dockerfile and apptainer.def do inside, so that both make the same image:
#   image.sh compiler       a C compiler: Triton builds the launchers of its kernels with it
#   image.sh dependencies   every package at the version that constraints.txt says; no code
#   image.sh code           the project itself
# The sources are in /src. TORCH chooses the build of torch: cuda, cpu, cu126, ...
set -eu
cd /src

case $1 in
compiler)
    apt-get update
    apt-get install --yes --no-install-recommends gcc libc6-dev
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
    ;;
dependencies)
    pip() { python -m pip --disable-pip-version-check "$@" --root-user-action=ignore; }
    if [ "$TORCH" != cuda ]; then
        # The same version, another build: from the wheels or the index, else from PyTorch's own.
        # Without this a plain `torch` brings gigabytes of CUDA along.
        torch=$(grep '^torch==' constraints.txt)+$TORCH
        pip install --no-deps "$torch" ||
            pip install --no-deps --index-url "https://download.pytorch.org/whl/$TORCH" "$torch"
    fi
    python - >/tmp/requirements.txt <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print(*project["project"]["dependencies"], *project["build-system"]["requires"], sep="\n")
PYTHON
    pip install --constraint constraints.txt --requirement /tmp/requirements.txt
    rm /tmp/requirements.txt
    ;;
code)
    python -m pip --disable-pip-version-check install --no-deps --no-build-isolation \
        --no-cache-dir --root-user-action=ignore .
    ;;
esac
