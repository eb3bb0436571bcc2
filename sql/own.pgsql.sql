-- Copyright 2026 The mod_nanomdm authors
-- SPDX-License-Identifier: Apache-2.0
--
-- What mod_nanomdm keeps beside the tables of sql/schema.pgsql.sql: tables whose names begin with mdm_,
-- without which it does all that its predecessor does. No foreign keys: other servers own the rest.
-- {p} is the table prefix (NanoMDMTablePrefix). Each statement ends with a semicolon at the end of a
-- line.

-- Tokens that the push service does not know any more, until the device sends its next one.
CREATE TABLE IF NOT EXISTS {p}mdm_dead_tokens (
    id         VARCHAR(255) NOT NULL,
    token_hex  VARCHAR(255) NOT NULL,
    reason     VARCHAR(63) NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id)
);
