#!/bin/sh
# Runs attention in a host that is not this crate's: Python, with wgpu and numpy from the package
# index.
#
#     scripts/hosts.sh
#
# The call comes as a recipe from a program that has no wgpu in its tree. Packages go into
# target/hosts-python, once. Exit status 3: they could not be got.
set -eu
cd "$(dirname "$0")/.."
python=target/hosts-python

if ! [ -e $python/ready ]; then
    rm -rf $python
    { python3 -m venv $python && $python/bin/pip install --quiet --disable-pip-version-check \
        'wgpu==0.32.0' 'numpy==2.4.6'; } >&2 || exit 3
    touch $python/ready
fi
manifest=examples/hosts/recipes/Cargo.toml
tree=$(cargo tree --locked --manifest-path $manifest --edges normal --prefix none)
if printf '%s\n' "$tree" | grep -E '^(wgpu|naga)'; then
    echo 'hosts: wgpu or naga in the tree of the recipes'
    exit 1
fi
cargo build --quiet --locked --manifest-path $manifest --target-dir target/hosts
target/hosts/debug/phasor-recipes | $python/bin/python examples/hosts/attention.py
