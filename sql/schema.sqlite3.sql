-- Copyright 2026 The mod_nanomdm authors
-- SPDX-License-Identifier: Apache-2.0
--
-- The tables of mod_nanomdm on SQLite: those of the MDM servers it can stand in for, with the same
-- names, columns and keys. {p} is the table prefix (NanoMDMTablePrefix). Each statement ends with a
-- semicolon at the end of a line.

CREATE TABLE IF NOT EXISTS {p}devices (
    id                   VARCHAR(255) NOT NULL PRIMARY KEY CHECK (id <> ''),
    identity_cert        TEXT NULL
                         CHECK (identity_cert IS NULL OR identity_cert LIKE '-----BEGIN CERTIFICATE-----%'),
    serial_number        VARCHAR(127) NULL CHECK (serial_number IS NULL OR serial_number <> ''),
    unlock_token         BLOB NULL CHECK (unlock_token IS NULL OR length(unlock_token) > 0),
    unlock_token_at      TIMESTAMP NULL,
    authenticate         TEXT NOT NULL CHECK (authenticate <> ''),
    authenticate_at      TIMESTAMP NOT NULL,
    token_update         TEXT NULL CHECK (token_update IS NULL OR token_update <> ''),
    token_update_at      TIMESTAMP NULL,
    bootstrap_token_b64  TEXT NULL CHECK (bootstrap_token_b64 IS NULL OR bootstrap_token_b64 <> ''),
    bootstrap_token_at   TIMESTAMP NULL,
    created_at           TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at           TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE INDEX IF NOT EXISTS {p}devices_serial_number ON {p}devices (serial_number);

CREATE TABLE IF NOT EXISTS {p}users (
    id                          VARCHAR(255) NOT NULL UNIQUE CHECK (id <> ''),
    device_id                   VARCHAR(255) NOT NULL
                                REFERENCES {p}devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    user_short_name             VARCHAR(255) NULL CHECK (user_short_name IS NULL OR user_short_name <> ''),
    user_long_name              VARCHAR(255) NULL CHECK (user_long_name IS NULL OR user_long_name <> ''),
    token_update                TEXT NULL CHECK (token_update IS NULL OR token_update <> ''),
    token_update_at             TIMESTAMP NULL,
    user_authenticate           TEXT NULL CHECK (user_authenticate IS NULL OR user_authenticate <> ''),
    user_authenticate_at        TIMESTAMP NULL,
    user_authenticate_digest    TEXT NULL
                                CHECK (user_authenticate_digest IS NULL OR user_authenticate_digest <> ''),
    user_authenticate_digest_at TIMESTAMP NULL,
    created_at                  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at                  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, device_id)
);

CREATE INDEX IF NOT EXISTS {p}users_device_id ON {p}users (device_id);

CREATE TABLE IF NOT EXISTS {p}enrollments (
    id                 VARCHAR(255) NOT NULL PRIMARY KEY CHECK (id <> ''),
    device_id          VARCHAR(255) NOT NULL
                       REFERENCES {p}devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    user_id            VARCHAR(255) NULL UNIQUE
                       REFERENCES {p}users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    type               VARCHAR(31) NOT NULL CHECK (type <> ''),
    topic              VARCHAR(255) NOT NULL CHECK (topic <> ''),
    push_magic         VARCHAR(127) NOT NULL CHECK (push_magic <> ''),
    token_hex          VARCHAR(255) NOT NULL CHECK (token_hex <> ''),
    enabled            BOOLEAN NOT NULL DEFAULT 1,
    token_update_tally INTEGER NOT NULL DEFAULT 1,
    last_seen_at       TIMESTAMP NOT NULL,
    created_at         TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at         TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE INDEX IF NOT EXISTS {p}enrollments_type ON {p}enrollments (type);

CREATE INDEX IF NOT EXISTS {p}enrollments_device_id ON {p}enrollments (device_id);

CREATE TABLE IF NOT EXISTS {p}commands (
    command_uuid VARCHAR(127) NOT NULL PRIMARY KEY CHECK (command_uuid <> ''),
    request_type VARCHAR(63) NOT NULL CHECK (request_type <> ''),
    command      TEXT NOT NULL CHECK (substr(command, 1, 5) = '<?xml'),
    created_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE IF NOT EXISTS {p}command_results (
    id            VARCHAR(255) NOT NULL
                  REFERENCES {p}enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    command_uuid  VARCHAR(127) NOT NULL
                  REFERENCES {p}commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
    status        VARCHAR(31) NOT NULL CHECK (status <> ''),
    result        TEXT NOT NULL CHECK (substr(result, 1, 5) = '<?xml'),
    not_now_at    TIMESTAMP NULL,
    not_now_tally INTEGER NOT NULL DEFAULT 0,
    created_at    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, command_uuid)
);

CREATE INDEX IF NOT EXISTS {p}command_results_status ON {p}command_results (status);

CREATE INDEX IF NOT EXISTS {p}command_results_command_uuid ON {p}command_results (command_uuid);

CREATE INDEX IF NOT EXISTS {p}command_results_updated_at ON {p}command_results (updated_at);

CREATE TABLE IF NOT EXISTS {p}enrollment_queue (
    id           VARCHAR(255) NOT NULL
                 REFERENCES {p}enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    command_uuid VARCHAR(127) NOT NULL
                 REFERENCES {p}commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
    active       BOOLEAN NOT NULL DEFAULT 1,
    priority     SMALLINT NOT NULL DEFAULT 0,
    created_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, command_uuid)
);

-- The row id, which every SQLite index ends with, is the order of arrival; VACUUM may number rows
-- anew but keeps their order.
CREATE INDEX IF NOT EXISTS {p}enrollment_queue_next
    ON {p}enrollment_queue (id, active, priority DESC);

CREATE INDEX IF NOT EXISTS {p}enrollment_queue_command_uuid ON {p}enrollment_queue (command_uuid);

CREATE TABLE IF NOT EXISTS {p}push_certs (
    topic       VARCHAR(255) NOT NULL PRIMARY KEY CHECK (topic <> ''),
    cert_pem    TEXT NOT NULL CHECK (cert_pem LIKE '-----BEGIN CERTIFICATE-----%'),
    key_pem     TEXT NOT NULL CHECK (key_pem LIKE '-----%'),
    stale_token INTEGER NOT NULL,
    created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE IF NOT EXISTS {p}cert_auth_associations (
    id         VARCHAR(255) NOT NULL CHECK (id <> ''),
    sha256     CHAR(64) NOT NULL CHECK (length(sha256) = 64),
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, sha256)
);

CREATE INDEX IF NOT EXISTS {p}cert_auth_associations_sha256 ON {p}cert_auth_associations (sha256);

CREATE VIEW IF NOT EXISTS {p}view_queue AS
    SELECT q.id, q.created_at, q.active, q.priority, c.command_uuid, c.request_type, c.command,
           r.updated_at AS result_updated_at, r.status, r.result
    FROM {p}enrollment_queue AS q
    INNER JOIN {p}commands AS c ON q.command_uuid = c.command_uuid
    LEFT JOIN {p}command_results AS r ON r.command_uuid = q.command_uuid AND r.id = q.id
    ORDER BY q.priority DESC, q.created_at, q.rowid;
