#!/bin/sh
# Checks what would be published: its size, and that nothing large or foreign is in it. With --build
# also that the library builds from it alone, with the newest dependencies and with the oldest that
# Cargo.toml admits.
set -eu
cd "$(dirname "$0")/.."
most=1000000 # bytes, compressed
target=${CARGO_TARGET_DIR:-$PWD/target}
folder=$target/package-check

cargo package --quiet --locked --no-verify --allow-dirty -p phasor --target-dir "$target"
for crate in "$target"/package/phasor-[0-9]*.crate; do :; done # the newest version
bytes=$(wc -c <"$crate")
echo "package: $(basename "$crate"), $bytes bytes"
[ "$bytes" -le $most ] || { echo "package: more than $most bytes"; exit 1; }
rm -rf "$folder" && mkdir -p "$folder"
tar -xzf "$crate" -C "$folder" --strip-components=1
for needed in src/lib.rs shaders/attention.wgsl README.md LICENSE-MIT LICENSE-APACHE CHANGELOG.md; do
    [ -e "$folder/$needed" ] || { echo "package: $needed is missing"; exit 1; }
done
foreign=$(cd "$folder" && find . -name '*.safetensors' -o -name '*.png' -o -path './.*/*' -o -path './scripts/*')
[ -z "$foreign" ] || { printf 'package: not for publication:\n%s\n' "$foreign"; exit 1; }

[ "${1:-}" = --build ] || exit 0

cd "$folder"
printf '\n[workspace]\n' >>Cargo.toml # its own, wherever the target folder is
check() { echo "package: $1"; cargo check --quiet --lib --all-features --target-dir "$target/package-check-build"; }
check 'newest dependencies'
# The resolver's option is not stable yet. Only this one command may use it.
RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions
check 'oldest dependencies'
