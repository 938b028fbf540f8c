#!/bin/sh
# Runs a command on a machine that has a Vulkan adapter, and sees to it that there is one:
#
#     scripts/with-adapter.sh cargo test
#
# On Linux it looks for a Vulkan loader and a driver that can work here. When there is none it
# installs Mesa's software adapter, lavapipe, with apt; where it cannot, it prints the commands to
# run and stops. When there is one it changes nothing. On other systems the graphics API belongs to
# the system, so the command is simply run.
#
# `cargo test` has lavapipe compile shaders without optimising them, which halves the time of the
# tests; GALLIVM_PERF= (empty, or with flags of yours) in front of the command keeps that as it is.
set -eu

say() { printf 'with-adapter: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- Looking for an adapter ----------------------------------------------------------------------

# Is there a shared library of this name where the dynamic linker looks? musl's linker has no
# cache to print and NixOS keeps drivers apart, hence the list of directories.
library_exists() {
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -q "^[[:space:]]*$1 " && return 0
    (
        IFS=:
        for dir in ${LD_LIBRARY_PATH:-} /lib /lib64 /usr/lib /usr/lib64 /usr/local/lib \
            /run/opengl-driver/lib; do
            [ -n "$dir" ] && [ -e "$dir/$1" ] && return 0
        done
        return 1
    )
}

# Manifests of installed drivers, one path a line, from where the Vulkan loader looks for them.
# VK_DRIVER_FILES (once called VK_ICD_FILENAMES) replaces the search and may name directories.
manifests() {
    (
        IFS=:
        chosen=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}
        if [ -n "$chosen" ]; then
            # shellcheck disable=SC2086 # a list of paths, split at IFS
            set -- $chosen
        else
            set --
            for base in "${XDG_CONFIG_HOME:-${HOME:-}/.config}" ${XDG_CONFIG_DIRS:-/etc/xdg} /etc \
                "${XDG_DATA_HOME:-${HOME:-}/.local/share}" \
                ${XDG_DATA_DIRS:-} /usr/local/share /usr/share /run/opengl-driver/share; do
                set -- "$@" "$base/vulkan/icd.d"
            done
        fi
        for path in "$@" ${VK_ADD_DRIVER_FILES:-}; do
            if [ -d "$path" ]; then
                for file in "$path"/*.json; do
                    if [ -f "$file" ]; then printf '%s\n' "$file"; fi
                done
            elif [ -f "$path" ]; then
                printf '%s\n' "$path"
            fi
        done
    )
}

# A device node that a hardware driver could open: DRM render nodes, NVIDIA, WSL, Adreno, Mali.
has_gpu() {
    for node in /dev/dri/renderD* /dev/nvidiactl /dev/dxg /dev/kgsl-3d0 /dev/mali0; do
        if [ -r "$node" ] && [ -w "$node" ]; then return 0; fi
    done
    return 1
}

# Does the driver that this manifest names exist, and can it work on this machine? Mesa's packages
# bring manifests of every vendor, so a hardware driver counts only beside a device node.
driver_usable() {
    library=$(sed -n 's/.*"library_path"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$1")
    case $library in
        '') return 1 ;;
        /*) [ -e "$library" ] || return 1 ;;
        */*) [ -e "$(dirname "$1")/$library" ] || return 1 ;; # relative to the manifest
        *) library_exists "$library" || return 1 ;;
    esac
    case $library in
        *lvp* | *lavapipe* | *swiftshader*) return 0 ;;
        *) has_gpu ;;
    esac
}

has_adapter() {
    library_exists libvulkan.so.1 || return 1
    manifests | {
        while IFS= read -r manifest; do
            if driver_usable "$manifest"; then exit 0; fi
        done
        exit 1
    }
}

# --- Installing one ------------------------------------------------------------------------------

give_up() {
    say "$1"
    cat >&2 <<'END'
No usable Vulkan adapter was found. Install a driver for your GPU, or Mesa's software adapter:

    Debian 13+, Ubuntu   sudo apt-get install mesa-vulkan-drivers libvulkan1
    Debian 12            echo 'deb http://deb.debian.org/debian bookworm-backports main' |
                             sudo tee /etc/apt/sources.list.d/bookworm-backports.list
                         sudo apt-get update
                         sudo apt-get install -t bookworm-backports mesa-vulkan-drivers libvulkan1
    Fedora               sudo dnf install mesa-vulkan-drivers vulkan-loader
    Arch                 sudo pacman -S vulkan-swrast vulkan-icd-loader
    Alpine               sudo apk add mesa-vulkan-swrast vulkan-loader
    openSUSE             sudo zypper install libvulkan_lvp libvulkan1
    NixOS                hardware.graphics.enable = true;   (in configuration.nix), and run this
                         in: nix-shell -p vulkan-loader --run \
                             'LD_LIBRARY_PATH=$(nix eval --raw nixpkgs#vulkan-loader)/lib COMMAND'

Then run the same command again.
END
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >/dev/null
}

# Debian 12 itself has Mesa 22.3, several times slower than the 25.0 of its backports. The suite is
# taken from the mirror that this machine already uses for bookworm.
add_backports() {
    # shellcheck disable=SC2016 # apt's own placeholders
    sources=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages')
    if printf '%s\n' "$sources" | grep -q '^bookworm-backports '; then return 0; fi
    mirror=$(printf '%s\n' "$sources" | sed -n 's/^bookworm //p' | head -n 1)
    list=/etc/apt/sources.list.d/bookworm-backports.list
    say "adding bookworm-backports from ${mirror:=http://deb.debian.org/debian} in $list"
    printf 'deb %s bookworm-backports main\n' "$mirror" | as_root tee "$list" >/dev/null
}

install_software_adapter() {
    have apt-get || give_up 'apt-get is not available here.'
    [ "$(id -u)" -eq 0 ] || { have sudo && sudo -n true 2>/dev/null; } ||
        give_up 'Installing needs root, and sudo would ask for a password.'

    say 'no usable Vulkan adapter: installing mesa-vulkan-drivers (the software adapter lavapipe)'
    release=
    if [ -r /etc/os-release ]; then
        # shellcheck disable=SC1091 # exists on the machine that runs this
        release=$(. /etc/os-release && printf '%s %s' "${ID:-}" "${VERSION_ID:-}")
    fi
    if [ "$release" = 'debian 12' ]; then
        add_backports || give_up 'bookworm-backports could not be added.'
        set -- -t bookworm-backports
    else
        set --
    fi
    # A third party's broken repository must not stop this: the installation is the judge.
    apt_get update || say 'apt-get update reported errors'
    # --reinstall mends a package whose files were deleted.
    apt_get install --reinstall --no-install-recommends "$@" mesa-vulkan-drivers libvulkan1 ||
        give_up 'apt-get could not install mesa-vulkan-drivers.'
    has_adapter || give_up 'mesa-vulkan-drivers is installed, but brought no driver that works here.'
}

# --- The run -------------------------------------------------------------------------------------

if [ $# -eq 0 ]; then
    say 'usage: scripts/with-adapter.sh COMMAND [ARGUMENT...]'
    exit 2
fi

if [ "$(uname -s)" = Linux ]; then
    if ! has_adapter; then
        chosen=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}
        if [ -n "$chosen" ]; then
            say "no usable driver in VK_DRIVER_FILES or VK_ICD_FILENAMES: $chosen"
            exit 1
        fi
        install_software_adapter
    fi
    if [ "$1" = cargo ] && ! have cc; then
        say 'Rust needs a C linker, and there is no cc (Debian, Ubuntu: apt-get install gcc libc6-dev)'
    fi
    # Tests run hundreds of shaders for a moment each.
    case "$1 ${2:-}" in 'cargo test') export GALLIVM_PERF="${GALLIVM_PERF-nopt}" ;; esac
    # Mesa warns at every start when there is no private directory to use.
    if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
        target=$(cd "$(dirname "$0")/.." && pwd)/target
        private=$target/xdg-runtime-$(id -u)
        if mkdir -p "$target" && (umask 077 && mkdir -p "$private"); then
            export XDG_RUNTIME_DIR="$private"
        fi
    fi
fi

exec "$@"
