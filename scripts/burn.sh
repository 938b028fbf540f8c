#!/usr/bin/env bash
# Format, lints, docs and tests of the workspace in burn/, which .ci/run leaves out: it builds Burn,
# about 20 minutes on two cores the first time, and what the lints need of it once more. Installs a
# software adapter where there is none; needs Rust 1.95.
#
#     scripts/burn.sh
set -euo pipefail
cd "$(dirname "$0")/../burn"

step() {
    local start=$SECONDS
    printf '\n== %s\n' "$*"
    "$@"
    printf '%d s\n' $((SECONDS - start))
}

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
step ../scripts/with-adapter.sh cargo test --locked --workspace
step ../scripts/with-adapter.sh cargo run --locked --bin train -- --check \
    ../tests/data/golden/ropepp_train_*.safetensors
run=target/burn-sh-run
rm -rf "$run"
step ../scripts/with-adapter.sh cargo run --locked --bin train -- --mode ec --layers 1 --hidden 64 \
    --heads 2 --ctx 64 --steps 60 --checkpoint-every 30 --out "$run"
step cargo run --locked --bin train -- evaluate "$run" --backend cpu --characters 4096 \
    --reach full,yarn --ablation --out "$run/evaluation"
printf 'All steps passed in %d s.\n' "$SECONDS"
