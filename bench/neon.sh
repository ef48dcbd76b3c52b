#!/usr/bin/env bash
# Builds crates for aarch64 and runs their tests under QEMU's user mode, so that the NEON instance of every kernel is
# really run, and compared bit for bit with the scalar references, on an x86-64 machine. It must not know any test.
#
#   bench/neon.sh [arguments of cargo test]      default: -p tensor --lib --test '*'
#
# Needs cargo and Debian 12 or newer on amd64. What it uses, all from Debian:
#   installed with apt-get where missing (as root or by sudo): the cross linker, its C library, qemu-user;
#   unpacked into NEON_FOLDER (default target/neon), not installed, so that no other Rust on the machine is shadowed:
#   rustc-web with its libraries, and the standard library libstd-rust-web-dev of both architectures.
# Versions are whatever the distribution's mirror has; the first line of the report names them.
# Timings under QEMU say nothing about a processor; only bits count here.
set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
folder=${NEON_FOLDER:-target/neon}
[ "$(dpkg --print-architecture)" = amd64 ] || { echo "neon.sh: needs Debian on amd64" >&2; exit 1; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
root=$folder/root

# apt with lists of its own, which also hold arm64: the system's architectures stay as they are.
own_apt() {
    local command=$1
    shift
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    "apt-$command" -q -o APT::Architectures="amd64,arm64" -o Dir::State::Lists="$folder/lists" \
        -o Dir::Cache="$folder/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

# The package matching $2 that package $1 depends on.
dependency() {
    own_apt cache depends "$1" | awk -v pattern="^$2" '$1 == "Depends:" && $2 ~ pattern { print $2; exit }'
}

install_tools() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
}

unpack_rust() {
    own_apt get update
    local library llvm archive
    library=$(dependency libstd-rust-web-dev 'libstd-rust-web-[0-9]')
    llvm=$(dependency "$library" 'libllvm[0-9]')
    rm -rf "$folder/debs" "$root"
    mkdir -p "$folder/debs" "$root"
    (cd "$folder/debs" &&
        own_apt get download rustc-web "$library" "$llvm" libstd-rust-web-dev:amd64 libstd-rust-web-dev:arm64)
    for archive in "$folder"/debs/*.deb; do
        dpkg-deb -x "$archive" "$root"
    done
    cat >"$folder/rustc" <<END
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu exec $root/usr/bin/rustc "\$@"
END
    chmod +x "$folder/rustc"
}

# What libLLVM links to is installed with the tools.
install_tools gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libedit2 libffi8 libxml2 libz3-4
[ -d "$root/usr/lib/rustlib/$target" ] && "$folder/rustc" --version >/dev/null || unpack_rust

if [ $# -eq 0 ]; then
    set -- -p tensor --lib --test '*'
fi
unset RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER CARGO_ENCODED_RUSTFLAGS
export RUSTC=$folder/rustc RUSTFLAGS=
export CARGO_TARGET_DIR=$folder/build
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64 -L /usr/aarch64-linux-gnu'

report=$folder/report.txt
{
    "$RUSTC" --version
    aarch64-linux-gnu-gcc --version | head -n 1
    qemu-aarch64 --version | head -n 1
} | paste -sd ';' | tee "$report"
set -o pipefail
cargo test --locked --target "$target" "$@" 2>&1 | tee -a "$report"
awk '/^test result: ok/ { passed += $4 }
     END { print "neon.sh: " passed + 0 " tests passed under QEMU"; exit passed == 0 }' "$report"
