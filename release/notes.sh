#!/usr/bin/env bash
# Prints the section of CHANGELOG.md about this version. Before the version has a section, it is the one about what is
# not released.
source "$(dirname "$0")/common.sh"

section() { # TITLE
    awk -v title="## $1" '/^## / { inside = ($0 == title || index($0, title " ") == 1); next } inside' CHANGELOG.md
}

notes=$(section "$version")
if [ -z "$notes" ]; then
    echo "CHANGELOG.md has no section ## $version: the release notes are those of ## Unreleased" >&2
    notes=$(section Unreleased)
fi
# Without the empty lines around it.
printf '%s\n' "$notes" | sed -e '/./,$!d'
