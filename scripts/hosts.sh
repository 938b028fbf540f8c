#!/bin/sh
# Runs attention in hosts that are not this crate's, by recipes that name no wgpu: in Python, with wgpu
# and numpy from the package index, and in Rust, with an older wgpu.
#
#     scripts/hosts.sh
#
# Packages go into target/hosts-python and target/hosts, once; the older wgpu takes two minutes to
# build on two cores. Exit status 3: the packages of one of them could not be got, and the other one
# passed.
set -eu
cd "$(dirname "$0")/.."
absent=

python=target/hosts-python
if ! [ -e $python/ready ]; then
    rm -rf $python
    if { python3 -m venv $python && $python/bin/pip install --quiet --disable-pip-version-check \
        'wgpu==0.32.0' 'numpy==2.4.6'; } >&2; then touch $python/ready; fi
fi
if [ -e $python/ready ]; then
    manifest=examples/hosts/recipes/Cargo.toml
    tree=$(cargo tree --locked --manifest-path $manifest --edges normal --prefix none)
    if printf '%s\n' "$tree" | grep -E '^(wgpu|naga)'; then
        echo 'hosts: wgpu or naga in the tree of the recipes'
        exit 1
    fi
    cargo build --quiet --locked --manifest-path $manifest --target-dir target/hosts
    target/hosts/debug/phasor-recipes | $python/bin/python examples/hosts/attention.py
else
    absent="$absent wgpu for Python"
fi

manifest=examples/hosts/wgpu29/Cargo.toml
if cargo fetch --quiet --locked --manifest-path $manifest >&2; then
    cargo build --quiet --locked --manifest-path $manifest --target-dir target/hosts
    target/hosts/debug/phasor-on-wgpu29
else
    absent="$absent wgpu 29"
fi
[ -z "$absent" ] || { echo "hosts: not there:$absent" >&2; exit 3; }
