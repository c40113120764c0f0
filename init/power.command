#!/bin/sh
# The command "power": the installed program, which finds the installed service; @MARK@
# When root calls it, it becomes the service's user first, in a session and an environment of its own. The program lies
# where that user may write: root runs none of it, and does not hand it a terminal.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
SERVICE_USER=@SHELL_USER@
PYTHON=@RPIENV@/bin/python
PROGRAM=@RPIENV@/rpienv/power.py

if [ ! -x "$PYTHON" ] || [ ! -e "$PROGRAM" ]; then
    echo "power: $PYTHON or $PROGRAM is missing, or closed to this user: run install_init_script.py again" >&2
    exit 5
fi

case " $*" in
*" --pidfile"* | *" --settings"* | *" --simulate"*) ;;
*) set -- --pidfile @RUN@/power.pid "$@" ;;
esac

user=$(id -un)
if [ "$user" != root ] && [ "$user" != "$SERVICE_USER" ]; then
    exec "$PYTHON" "$PROGRAM" "$@"
fi

POWER_SETTINGS=
[ ! -r @DEFAULT@ ] || . @DEFAULT@
set -- env "STATE_DIRECTORY=@STATE@" "POWER_SETTINGS=$POWER_SETTINGS" "$PYTHON" "$PROGRAM" "$@"
[ "$user" = root ] || exec "$@"

# The command, as the service's user. Ctrl-C does not reach its session, so it is passed on.
run() {
    setpriv --reuid="$SERVICE_USER" --regid="$(id -g "$SERVICE_USER")" --init-groups --no-new-privs --reset-env \
        setsid env PYTHONNOUSERSITE=1 "$@" < /dev/null 3>&- 4>&- 5>&- &
    child=$!
    trap 'kill -TERM "$child" 2> /dev/null' HUP INT TERM
    wait "$child"
    status=$?
    # A signal ends the waiting, and not the command.
    while kill -0 "$child" 2> /dev/null; do
        wait "$child"
        status=$?
    done
    return "$status"
}

# What it prints, without control characters: those of ASCII, and C1 as UTF-8 has it. In bounded memory, however long
# a line is.
plain() (
    trap '' HUP INT TERM
    # shellcheck disable=SC3045  # dash and bash know it
    ulimit -v 300000
    LC_ALL=C exec sed -u -e 's/[^\t -~\x80-\xff]//g' -e 's/\xc2[\x80-\x9f]//g'
)

# 3 takes the exit status, 4 and 5 the standard output, past the pipe of the errors and past $(...).
exec 5>&1
status=$(
    {
        { { run "$@"; echo "$?" >&3; } 2>&1 >&4 4>&- | plain >&2; } 4>&1 | plain >&5
    } 3>&1
)
exit "$status"
