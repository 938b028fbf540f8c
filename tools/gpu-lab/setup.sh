#!/bin/sh
# Fetches the compilers that gpu-lab asks: Mesa's Vulkan drivers, and the no-op DRM shims with which
# a driver starts without its GPU; and Vulkan's validation layer. Nothing is installed and no root
# is needed: Debian packages are unpacked into two folders, and run with those folders' own
# libraries. Debian does not ship Intel's shim, so it is built from Mesa's source, for the release
# whose driver goes with it. Debian or Ubuntu on x86-64; about 400 MB to download and 2 GB on disk.
# GPU_LAB_ROOT         the folder (default: ~/.cache/gpu-lab); Intel goes to the same name with
# -intel GPU_LAB_MIRROR       a Debian mirror (default: http://deb.debian.org/debian) GPU_LAB_SUITE 
#       where Mesa comes from (default: sid) GPU_LAB_INTEL_SUITE  where Mesa comes from for Intel
# (default: bookworm-backports, with bookworm)
set -eu
root=${GPU_LAB_ROOT:-$HOME/.cache/gpu-lab}
mirror=${GPU_LAB_MIRROR:-http://deb.debian.org/debian}
suite=${GPU_LAB_SUITE:-sid}
intel_suite=${GPU_LAB_INTEL_SUITE:-bookworm-backports}
lib=usr/lib/x86_64-linux-gnu
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# A private apt in $apt that believes that nothing is installed.
lab_apt() {
    apt-get -qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::Status="$apt/status" \
        -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives" -o Debug::NoLocking=true \
        -o APT::Architecture=amd64 -o APT::Install-Recommends=false -o Acquire::Check-Valid-Until=false \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# fetch FOLDER SUITE PACKAGE...: the packages and all that they need, unpacked; backports win.
fetch() {
    folder=$1 from=$2
    shift 2
    apt=$folder/.apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : > "$apt/status"
    options="[arch=amd64]"
    [ ! -f $keyring ] || options="[arch=amd64 signed-by=$keyring]"
    for each in "${from%-backports}" "$from"; do
        echo "deb $options $mirror $each main"
        echo "deb-src $options $mirror $each main"
    done | sort -u > "$apt/sources.list"
    lab_apt update
    lab_apt install --yes --download-only --target-release "$from" "$@"
    for package in "$apt"/archives/*.deb; do
        dpkg-deb --extract "$package" "$folder"
    done
}

fetch "$root" "$suite" mesa-vulkan-drivers mesa-drm-shim libvulkan1 vulkan-validationlayers
echo "ready: $root"

# The system's Python, whose modules come as packages.
PATH=/usr/bin:/bin:$PATH
for tool in meson ninja bison flex pkg-config python3; do
    command -v $tool > /dev/null || missing="${missing:-} $tool"
done
if [ -n "${missing:-}" ]; then
    echo "without Intel: building its shim needs$missing. Install meson (1.1 or later) ninja-build bison flex pkg-config" >&2
    echo "python3-mako python3-yaml python3-packaging libdrm-dev libexpat1-dev zlib1g-dev libzstd-dev" >&2
    echo "libelf-dev dpkg-dev xz-utils and run this again (libdrm-dev from backports, apt install -t, where the" >&2
    echo "system's Mesa is from there)" >&2
    exit 1
fi
intel=$root-intel
fetch "$intel" "$intel_suite" mesa-vulkan-drivers libvulkan1
cd "$apt"
lab_apt source --download-only --tar-only --target-release "$intel_suite" mesa
rm -rf mesa && mkdir mesa
tar -xf mesa_*.orig.tar.xz -C mesa --strip-components=1
meson setup mesa/build mesa -Dtools=drm-shim,intel -Dvulkan-drivers= -Dgallium-drivers= -Dplatforms= \
    -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dopengl=false -Dgles1=disabled -Dgles2=disabled \
    -Dllvm=disabled -Dvideo-codecs= -Dvalgrind=disabled -Dlibunwind=disabled > meson.log || { tail -n 5 meson.log >&2; exit 1; }
ninja -C mesa/build src/intel/tools/libintel_noop_drm_shim.so > ninja.log || { tail -n 20 ninja.log >&2; exit 1; }
cp mesa/build/src/intel/tools/libintel_noop_drm_shim.so "$intel/$lib/"
echo "ready: $intel"
