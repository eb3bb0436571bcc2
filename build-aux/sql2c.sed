# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Turns SQL text into the lines of a C string; comment lines and empty ones stay out.
/^[[:space:]]*--/d
/^[[:space:]]*$/d
s/\\/\\\\/g
s/"/\\"/g
s/.*/    "&\\n"/
