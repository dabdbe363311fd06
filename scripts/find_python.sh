#!/bin/sh
# Prints the Python that the environment is built with, or says on stderr why there is none.
# $1: the user's choice (PYTHON=...); empty for the first supported one on the PATH.
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
wanted='freqfusion needs Python 3.11, 3.12 or 3.13'

if [ -n "$1" ]; then
    if "$1" -c "$supported" >/dev/null 2>&1; then
        echo "$1"
        exit 0
    fi
    if found=$("$1" --version 2>&1); then
        echo "$wanted, and PYTHON=$1 is $found." >&2
    else
        echo "$wanted, and PYTHON=$1 cannot be run." >&2
    fi
    exit 1
fi

for candidate in python3.11 python3.12 python3.13 python3 python; do
    if "$candidate" -c "$supported" >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
echo "$wanted, and none is on the PATH. Install one (Debian and Ubuntu: sudo apt install" \
    "python3.11 python3.11-venv python3.11-dev), or name it: make <target> PYTHON=/path/to/python3.11" >&2
exit 1
