#!/bin/bash
# try_readme.sh: the README's two commands, from a clean clone, twice, as this user and, if that is root, as another one.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

fail() { echo "try_readme: $1" >&2; exit 1; }

# try USER COMMAND...: in that user's clone, with a home of its own there.
try() {
    local user=$1; shift
    local run=(env -i "PATH=$PATH" "HOME=$work/$user" CI="${CI:-}" "$@")
    [ "$user" = "$(id -un)" ] || run=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups
                                      env -i PATH=/usr/bin:/bin "HOME=$work/$user" CI="${CI:-}" "$@")
    (cd "$work/$user/power" && exec "${run[@]}")
}

# make run, until it counts; then Ctrl-C, which goes to the whole group.
run_and_interrupt() {
    local user=$1 out=$work/$1/run.out
    # python's own way to begin a group whose members heed SIGINT: a shell lets its children in the background ignore it
    try "$user" python3 - "$out" <<'PY' || { cat "$out"; fail "make run failed for $user"; }
import os, pathlib, signal, subprocess, sys, time
out = sys.argv[1]
with open(out, "ab") as file:
    run = subprocess.Popen(["make", "run"], stdout=file, stderr=file, start_new_session=True)
end = time.monotonic() + 300
def counted():
    return b"INFO counting" in pathlib.Path(out).read_bytes()
while not counted():
    assert run.poll() is None and time.monotonic() < end, "it does not count"
    time.sleep(0.2)
os.killpg(run.pid, signal.SIGINT)
run.wait(20)
assert b"INFO stopped" in pathlib.Path(out).read_bytes(), "it did not stop in order"
os.truncate(out, 0)
PY
}

users=("$(id -un)")
if [ "$(id -u)" = 0 ]; then users+=(nobody); fi
for user in "${users[@]}"; do
    mkdir "$work/$user"
    git clone --quiet "$top" "$work/$user/power"
    chown -R "$user" "$work/$user"
    run_and_interrupt "$user"
    run_and_interrupt "$user"
    echo "try_readme: make run, twice, as $user: ok"
done
# As this user the tests run on their own; the other one runs them here.
if [ "${#users[@]}" = 2 ]; then
    try nobody make test || fail "make test failed for nobody"
    echo "try_readme: make test as nobody: ok"
fi
