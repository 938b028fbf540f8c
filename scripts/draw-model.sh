#!/usr/bin/env bash
# Draws the real and imaginary attention of a model that `train` made, over held-out text: a run, a
# checkpoint, or one of burn/models. Pictures go into target/analyze unless told otherwise; flags of
# `train projections` may follow, such as --text.
#
#     scripts/draw-model.sh MODEL [OUT [FLAGS...]]
set -euo pipefail
model=$(realpath "${1:?usage: scripts/draw-model.sh MODEL [OUT [FLAGS...]]}")
out=$(realpath -m "${2:-$(dirname "$0")/../target/analyze}")
cd "$(dirname "$0")/.."
projections=$(mktemp -d)
trap 'rm -rf "$projections"' EXIT
(cd burn && cargo run --locked --quiet --bin train -- projections "$model" "$projections" "${@:3}")
cargo run --locked --quiet --release --bin analyze -- --input "$projections" --out "$out" --png-only
