#!/bin/sh
# Looks for data races in workgroup memory: runs tests of tests/gpu under Vulkan's validation layer,
# with its instrumentation of shaders, on lavapipe 26, and fails if there is a report.
#
#     scripts/race-check.sh                 # every kernel on a case of the reference files
#     scripts/race-check.sh NAME...         # tests whose names contain one of these
#     scripts/race-check.sh --self-test     # only the proof that a race would be seen
#
# The proof comes first in every run: a shader without a barrier has to be reported, and the same
# with the barrier must not be. Driver and layer come from tools/gpu-lab/setup.sh; without them the
# script says so and exits with 3. GPU_TESTS names a test binary that is built already. Races in
# storage buffers are beyond this layer.
set -eu
cd "$(dirname "$0")/.."
root=${GPU_LAB_ROOT:-$HOME/.cache/gpu-lab}
log=target/race-check.log
race=SharedMemoryDataRace

say() { printf 'race-check: %s\n' "$*"; }

libraries=$root/usr/lib/x86_64-linux-gnu
if ! [ -e "$libraries/libVkLayer_khronos_validation.so" ] || ! [ -e "$libraries/libvulkan_lvp.so" ]; then
    say 'skipped: tool missing; get it with tools/gpu-lab/setup.sh'
    exit 3
fi
for loader in "$root"/usr/lib64 "$root"/lib64 "$libraries"; do
    [ -x "$loader/ld-linux-x86-64.so.2" ] && break
done
for driver in "$root"/usr/share/vulkan/icd.d/lvp_icd*.json; do :; done
mkdir -p target
binary=${GPU_TESTS:-$(cargo test --locked --test gpu --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/gpu-[^"]*\)".*/\1/p')}

# under_layer ARGUMENT...: runs the tests; what they and the layer say goes to the log. wgpu must
# not ask for the layer itself: it would take the reports and give them to a logger that tests do
# not have.
under_layer() {
    env VK_DRIVER_FILES="$driver" VK_LAYER_PATH="$root/usr/share/vulkan/explicit_layer.d" \
        VK_LOADER_LAYERS_ENABLE=VK_LAYER_KHRONOS_validation \
        VK_LAYER_GPUAV_ENABLE=1 VK_KHRONOS_VALIDATION_VALIDATE_CORE=false \
        WGPU_VALIDATION=0 WGPU_DEBUG=0 WGPU_BACKEND=vulkan XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" \
        "$loader/ld-linux-x86-64.so.2" --library-path "$libraries:$root/lib/x86_64-linux-gnu" \
        "$binary" --nocapture "$@" >"$log" 2>&1 || { say "the tests themselves failed: see $log"; exit 1; }
    grep -q '^test result: ok. [1-9]' "$log" || { say "no test ran: see $log"; exit 1; }
    reports=$(grep -c "$race" "$log" || true)
}

under_layer --ignored --exact race::planted
[ "$reports" -gt 0 ] || { say "the planted race was not reported: see $log"; exit 1; }
say "the planted race is reported, $reports times"
under_layer --ignored --exact race::mended
[ "$reports" -eq 0 ] || { say "a shader without a race is reported: see $log"; exit 1; }
say 'the same shader with its barrier is not'
[ "${1:-}" != --self-test ] || exit 0

[ $# -gt 0 ] || set -- --include-ignored limits::every_kernel
under_layer "$@"
say "$reports reports; $(grep '^test result' "$log")"
[ "$reports" -eq 0 ]
