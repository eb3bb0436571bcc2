-- Copyright 2026 The mod_nanomdm authors
-- SPDX-License-Identifier: Apache-2.0
--
-- What mod_nanomdm keeps beside the tables of sql/schema.mysql.sql: tables whose names begin with mdm_,
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
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Webhook events that wait for their delivery. webhook is the URL, due_ms when to try next, in
-- milliseconds since 1970; NULL: given up, with the reason in error. event is JSON in one line, without the
-- payload, which follows as it is. A row without id holds events of many Idle reports, as netstrings: id and
-- event by turns; its due_ms means nothing but for NULL.
CREATE TABLE IF NOT EXISTS {p}mdm_webhook_outbox (
    seq        BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    webhook    VARCHAR(255) NOT NULL,
    id         VARCHAR(255) NOT NULL,
    topic      VARCHAR(63) NOT NULL,
    event      LONGTEXT NOT NULL,
    due_ms     BIGINT NULL,
    error      VARCHAR(255) NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    INDEX {p}mdm_webhook_outbox_due (webhook, due_ms, seq),
    INDEX {p}mdm_webhook_outbox_id (webhook, id, seq)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which node delivers an enrollment's events (owner), and until when; "-": they wait after a failure.
CREATE TABLE IF NOT EXISTS {p}mdm_webhook_leases (
    webhook  VARCHAR(255) NOT NULL,
    id       VARCHAR(255) NOT NULL,
    owner    VARCHAR(63) NOT NULL,
    until_ms BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (webhook, id)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
