#!/bin/sh
# Checks that the library builds without features, with each alone, and with all.
set -eu
cd "$(dirname "$0")/.."
check() { printf 'features: %s\n' "$*"; cargo check --quiet --locked --lib "$@"; }
check --no-default-features
# The names stand behind [features], each at the start of its line.
for feature in $(sed -n '/^\[features\]/,/^\[/s/^\([a-z0-9-]*\) = .*/\1/p' Cargo.toml); do
    check --no-default-features --features "$feature"
done
check --all-features
