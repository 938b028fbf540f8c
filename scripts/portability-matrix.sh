#!/bin/sh
# Prints the portability matrix: every shader variant by every translation and compiler, as
# Markdown. A target whose program is absent shows as skipped, with the command that gets it; a
# refusal fails.
#
#     scripts/portability-matrix.sh
#     TARGETS=Tint,DXC scripts/portability-matrix.sh     # only targets with these words in their names
set -eu
cd "$(dirname "$0")/.."
tools=${PORTABILITY_TOOLS:-$HOME/.cache/phasor-tools}

# What scripts/portability-tools.sh got, where nothing else was chosen.
if [ -z "${DXC:-}" ] && [ -e "$tools/dxc/libdxcompiler_x86_64.so.3.7" ]; then
    export DXC="$PWD/tools/dxc/dxc.py" DXCOMPILER="$tools/dxc/libdxcompiler_x86_64.so.3.7"
fi
if [ -z "${GPU_LAB:-}" ] && [ -d "${GPU_LAB_ROOT:-$HOME/.cache/gpu-lab}" ]; then
    cargo build --quiet --locked --release -p gpu-lab
    export GPU_LAB="$PWD/target/release/gpu-lab"
fi
exec cargo test --quiet --locked --test shaders -- --ignored --nocapture --exact matrix::portability_matrix
