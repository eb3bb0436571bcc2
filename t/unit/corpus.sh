#!/bin/sh
# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Replays every fuzz corpus through its target; REPLAY names the programs, replay_NAME reads
# t/fuzz/corpus/NAME.

srcdir=${srcdir:-.}
failed=0
for program in $REPLAY; do
    name=${program##*/replay_}
    corpus=$srcdir/t/fuzz/corpus/$name
    if test ! -d "$corpus"; then
        echo "FAIL: $name has no corpus in $corpus"
        failed=1
    elif "./$program" "$corpus"; then
        echo "ok: $name, $(ls "$corpus" | wc -l) inputs"
    else
        echo "FAIL: $name"
        failed=1
    fi
done
exit $failed
