# Sourced by the build scripts, in the folder of the script. They build programs once, into a cache outside the project:
# ${ROSTER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/roster}.

# The folder NAME-KEY in the cache, where the key is a digest of the files that the programs are built from.
cache_folder() { # NAME FILE...
    local name=$1; shift
    echo "${ROSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/roster}/$name-$(cat "$@" | sha256sum | cut -c1-12)"
}

# Fills the folder by running `build FOLDER.part`, unless it is complete, and prints its path. Other calls wait.
build_once() { # FOLDER
    local bin=$1
    if [ ! -e "$bin/.complete" ]; then
        if ! command -v go >/dev/null; then
            echo "go is missing: install Go 1.26.3 or later (https://go.dev/doc/install)${GO_ADVICE:-}" >&2
            exit 1
        fi
        mkdir -p "$(dirname "$bin")"
        exec 9>"$bin.lock"
        flock 9
        if [ ! -e "$bin/.complete" ]; then
            rm -rf "$bin.part"
            mkdir -p "$bin.part"
            build "$bin.part" >&2
            touch "$bin.part/.complete"
            rm -rf "$bin"
            mv "$bin.part" "$bin"
        fi
    fi
    echo "$bin"
}

# Debugging information takes an eighth of the time, and is stripped anyway.
go_build() { GOFLAGS= go build -trimpath -buildvcs=false -gcflags=all=-dwarf=false "$@"; }
