/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The project's own status codes, beside APR's. They say what went wrong, never an HTTP code:
 * src/httpd alone maps them. "Absent" is APR_ENOENT, everywhere.
 */
#ifndef MDM_STATUS_H
#define MDM_STATUS_H

#include <apr_errno.h>

#define MDM_STATUS_BASE (APR_OS_START_USERERR + 7000)

/** The caller's input is wrong; the function also tells why, in a sentence for the log. */
#define MDM_EINPUT (MDM_STATUS_BASE + 1)
/** The certificate is fine but does not belong to this enrollment. */
#define MDM_EREFUSED (MDM_STATUS_BASE + 2)
/** The user channel is declined (UserAuthenticate). */
#define MDM_EDECLINED (MDM_STATUS_BASE + 3)
/** The same identifier exists with other content. */
#define MDM_ECONFLICT (MDM_STATUS_BASE + 4)
/** A service this depends on (the database) is out of reach or busy: try again later. */
#define MDM_EUNAVAILABLE (MDM_STATUS_BASE + 5)
/** The feature is not configured. */
#define MDM_ENOTCONFIGURED (MDM_STATUS_BASE + 6)
/** The schema of the database does not fit. */
#define MDM_ESCHEMA (MDM_STATUS_BASE + 7)
/** Another server that had to be asked gave no answer, or none that counts. */
#define MDM_EGATEWAY (MDM_STATUS_BASE + 8)
/** So many wait for another server already that it was not asked. */
#define MDM_ECROWDED (MDM_STATUS_BASE + 9)

#endif
