#!/usr/bin/env bash
# The page of examples/browser: builds it, then serves it, or with --check lets a headless Chromium
# run it on its software adapter and prints what it found.
#
#     scripts/browser.sh                     serve at http://localhost:8000
#     scripts/browser.sh --check [CHROMIUM]  options of Chromium's own in CHROMIUM_OPTIONS
#
# Needs: rustup target add wasm32-unknown-unknown; wasm-bindgen (cargo install wasm-bindgen-cli, of
# the version in Cargo.lock); Node.js 20.11 or later; for --check, Chromium, which takes
# CHROMIUM_OPTIONS=--no-sandbox to run as root. What is missing is named, with status 3.
set -euo pipefail
cd "$(dirname "$0")/.."

need() {
    command -v "$1" >/dev/null || { printf 'skipped: no %s; %s\n' "$1" "$2"; exit 3; }
}
need wasm-bindgen 'cargo install wasm-bindgen-cli, of the version in Cargo.lock'
need node 'install Node.js 20.11 or later'
[ -d "$("${RUSTC:-rustc}" --print target-libdir --target wasm32-unknown-unknown)" ] || {
    printf 'skipped: no standard library for the web; rustup target add wasm32-unknown-unknown\n'
    exit 3
}
browser=${2:-chromium}
if [ "${1:-}" = --check ]; then need "$browser" 'install Chromium, or name another browser of its kind'; fi

cargo build --locked --release -p phasor-browser --target wasm32-unknown-unknown
page=examples/browser
wasm-bindgen --target web --no-typescript --out-dir $page/pkg \
    "${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown/release/phasor_browser.wasm"
if [ "${1:-}" = --check ]; then
    # shellcheck disable=SC2086 # a list of options
    exec node $page/serve.mjs --check "$browser" --use-webgpu-adapter=swiftshader ${CHROMIUM_OPTIONS:-}
fi
exec node $page/serve.mjs
