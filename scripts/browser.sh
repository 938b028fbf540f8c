#!/usr/bin/env bash
# The page of examples/browser: builds it, then serves it; or leaves it in a folder for any static
# host; or, with --check, lets a headless Chromium try it on its software adapter.
#
#     scripts/browser.sh                     serve at http://localhost:8000
#     scripts/browser.sh --out DIR           HTML, CSS, JavaScript, wasm and data in DIR
#     scripts/browser.sh --check [CHROMIUM]  options of Chromium's own in CHROMIUM_OPTIONS; in
#                                            CHECK_ONLY, a pattern of names, which checks to run
#
# Needs: rustup target add wasm32-unknown-unknown; wasm-bindgen (cargo install wasm-bindgen-cli, of
# the version in Cargo.lock); to serve or check, Node.js 20.11 or later; for --check, Chromium. What
# is missing is named, with status 3.
# The check leaves pictures of the page in its folder. SmolLM2 writes in it where
# scripts/fetch-smollm.sh has got it; where not, the check says that it was left out.
set -euo pipefail
cd "$(dirname "$0")/.."

need() {
    command -v "$1" >/dev/null || { printf 'skipped: no %s; %s\n' "$1" "$2"; exit 3; }
}
need wasm-bindgen 'cargo install wasm-bindgen-cli, of the version in Cargo.lock'
version=$(sed -n '/^name = "wasm-bindgen"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
[ "$(wasm-bindgen --version)" = "wasm-bindgen $version" ] || {
    printf 'skipped: %s; cargo install wasm-bindgen-cli --version %s\n' \
        "$(wasm-bindgen --version)" "$version"
    exit 3
}
[ -d "$("${RUSTC:-rustc}" --print target-libdir --target wasm32-unknown-unknown)" ] || {
    printf 'skipped: no standard library for the web; rustup target add wasm32-unknown-unknown\n'
    exit 3
}
mode=${1:-}
browser=${2:-chromium}
target=${CARGO_TARGET_DIR:-target}
site=$target/browser
case $mode in
    --out) site=${2:?--out needs a folder} ;;
    --check) need "$browser" 'install Chromium, or name another browser of its kind' ;;
    '') ;;
    *) printf 'usage: %s [--out DIR | --check [CHROMIUM]]\n' "$0"; exit 2 ;;
esac
[ "$mode" = --out ] || need node 'install Node.js 20.11 or later'

cargo build --locked --release -p phasor-browser --target wasm32-unknown-unknown
# What an older build and its check left.
rm -rf "$site/pkg" "$site/models" "$site/results.json" "$site/model.gguf" "$site"/*.png
mkdir -p "$site/data" "$site/models"
cp examples/browser/page/* "$site"
cp tests/data/real/real_layer*.safetensors "$site/data"
cp -r burn/models/rope burn/models/ec burn/models/eh "$site/models"
wasm-bindgen --target web --no-typescript --out-dir "$site/pkg" \
    "$target/wasm32-unknown-unknown/release/phasor_browser.wasm"

# What the first view downloads, as a host that compresses sends it.
bytes=0
for file in "$site"/*.{html,css,js,json,svg} "$site"/pkg/*.{js,wasm} \
    "$site/data/real_layer10.safetensors"; do
    case $file in */check.js) continue ;; esac
    bytes=$((bytes + $(gzip -9 -c "$file" | wc -c)))
done
printf 'first view: %d.%02d MB compressed\n' $((bytes / 1000000)) $((bytes / 10000 % 100))
[ "$bytes" -le 5000000 ] || { printf 'more than the 5 MB that it may have\n'; exit 1; }

serve=examples/browser/serve.mjs
case $mode in
    --out) printf 'the page is in %s\n' "$site" ;;
    --check)
        # The language model, where scripts/fetch-smollm.sh has got it, for the part that writes.
        model=${XDG_CACHE_HOME:-$HOME/.cache}/phasor/SmolLM2-135M-Instruct.Q4_1.gguf
        if [ -f "$model" ]; then ln -s "$model" "$site/model.gguf"; fi
        cp tests/data/real/generation.json "$site/data"
        # As root Chromium runs without its sandbox only; what it opens is this page alone.
        [ "$(id -u)" -ne 0 ] || CHROMIUM_OPTIONS="--no-sandbox ${CHROMIUM_OPTIONS:-}"
        # shellcheck disable=SC2086 # a list of options
        node $serve "$site" --check "$browser" --use-webgpu-adapter=swiftshader \
            ${CHROMIUM_OPTIONS:-}
        rm -f "$site/model.gguf"
        printf 'pictures of the page: %s\n' "$site"/*.png
        # Some checks alone may have timed nothing.
        [ -n "${CHECK_ONLY:-}" ] || cargo run --locked --quiet --bin results -- "$site/results.json"
        ;;
    *) exec node $serve "$site" ;;
esac
