#!/bin/sh
# Checks that the library builds without features, with each alone, and with all, and that without
# them there is neither wgpu nor naga in its tree.
set -eu
cd "$(dirname "$0")/.."
check() { printf 'features: %s\n' "$*"; cargo check --quiet --locked -p phasor --lib "$@"; }
check --no-default-features
tree=$(cargo tree --locked -p phasor --no-default-features --features serde --edges normal --prefix none)
if printf '%s\n' "$tree" | grep -E '^(wgpu|naga)'; then
    echo 'features: wgpu or naga in the tree without the feature wgpu'
    exit 1
fi
# The names stand behind [features], each at the start of its line.
for feature in $(sed -n '/^\[features\]/,/^\[/s/^\([a-z0-9-]*\) = .*/\1/p' Cargo.toml); do
    check --no-default-features --features "$feature"
done
check --all-features
