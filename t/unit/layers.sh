#!/bin/sh
# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# The layering: only mod_nanomdm.c and src/httpd may include httpd's headers, and nothing outside
# of them may include a header of src/httpd.

srcdir=${srcdir:-.}
failed=0

# httpd's public headers, by the prefixes they have; apr_… is not among them.
httpd='#[[:space:]]*include[[:space:]]*[<"](apache2/|httpd/)?(httpd|http_[a-z0-9]+|ap_[a-z0-9_]+|util_(filter|script|md5|ldap|cookies|mutex|varbuf|xml|time|fcgi|ebcdic|cfgtree|charset)|mod_[a-z0-9_]+|mpm_common|scoreboard|unixd|os|heartbeat)\.h[>"]'
ours='#[[:space:]]*include[[:space:]]*"([^"]*/)?(httpd/|nanomdm)[^"]*"'

# The file name precedes the match, so a path with spaces does no harm.
hits=$(cd "$srcdir" && find src include tools t/unit t/fuzz \
    \( -name '*.c' -o -name '*.h' \) ! -path 'src/httpd/*' \
    -exec grep -nE "$httpd|$ours" /dev/null {} + 2>/dev/null)
if test -n "$hits"; then
    echo "httpd's headers outside of src/httpd:"
    echo "$hits"
    failed=1
fi

# The check itself must find what it looks for.
if ! printf '#include <http_config.h>\n' | grep -qE "$httpd"; then
    echo "the pattern is broken"
    failed=1
fi
exit $failed
