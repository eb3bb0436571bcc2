/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the push service's answers mean. Knows Apple's reasons; not how an answer came. */
#ifndef PUSH_ANSWER_H
#define PUSH_ANSWER_H

#include "apns.h"
#include "session.h"

/** Fill in what the service said about a push; its strings are made printable. */
void answer_read(apns_push_t *push, const session_answer_t *answer);

typedef enum {
    ANSWER_FINAL,
    ANSWER_LATER,      /* the service is busy or broken: the push may be sent again */
    ANSWER_CERTIFICATE /* final, and the operator must act: topic or certificate is wrong */
} answer_kind_t;

answer_kind_t answer_kind(const apns_push_t *push);

#endif
