-- Copyright 2026 The mod_nanomdm authors
-- SPDX-License-Identifier: Apache-2.0
--
-- The tables of mod_nanomdm on MySQL 8 and MariaDB 10.5 and later: those of the MDM servers it can
-- stand in for, with the same names, columns and keys; ids compare byte by byte, and the queue's times
-- have microseconds. {p} is the table prefix (NanoMDMTablePrefix). Each statement ends with a semicolon
-- at the end of a line.

CREATE TABLE IF NOT EXISTS {p}devices (
    id                   VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (id <> ''),
    identity_cert        TEXT NULL CHECK (identity_cert IS NULL OR SUBSTRING(identity_cert, 1, 27) = '-----BEGIN CERTIFICATE-----'),
    serial_number        VARCHAR(127) NULL CHECK (serial_number IS NULL OR serial_number <> ''),
    unlock_token         MEDIUMBLOB NULL CHECK (unlock_token IS NULL OR LENGTH(unlock_token) > 0),
    unlock_token_at      TIMESTAMP NULL,
    authenticate         MEDIUMTEXT NOT NULL CHECK (authenticate <> ''),
    authenticate_at      TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    token_update         MEDIUMTEXT NULL CHECK (token_update IS NULL OR token_update <> ''),
    token_update_at      TIMESTAMP NULL,
    bootstrap_token_b64  MEDIUMTEXT NULL CHECK (bootstrap_token_b64 IS NULL OR bootstrap_token_b64 <> ''),
    bootstrap_token_at   TIMESTAMP NULL,
    created_at           TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at           TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    INDEX serial_number (serial_number)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}users (
    id                          VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (id <> ''),
    device_id                   VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_short_name             VARCHAR(255) NULL CHECK (user_short_name IS NULL OR user_short_name <> ''),
    user_long_name              VARCHAR(255) NULL CHECK (user_long_name IS NULL OR user_long_name <> ''),
    token_update                MEDIUMTEXT NULL CHECK (token_update IS NULL OR token_update <> ''),
    token_update_at             TIMESTAMP NULL,
    user_authenticate           MEDIUMTEXT NULL CHECK (user_authenticate IS NULL OR user_authenticate <> ''),
    user_authenticate_at        TIMESTAMP NULL,
    user_authenticate_digest    MEDIUMTEXT NULL CHECK (user_authenticate_digest IS NULL OR user_authenticate_digest <> ''),
    user_authenticate_digest_at TIMESTAMP NULL,
    created_at                  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at                  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id, device_id),
    FOREIGN KEY (device_id) REFERENCES {p}devices (id) ON DELETE CASCADE ON UPDATE CASCADE
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}enrollments (
    id                 VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (id <> ''),
    device_id          VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id            VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    type               VARCHAR(31) NOT NULL CHECK (type <> ''),
    topic              VARCHAR(255) NOT NULL CHECK (topic <> ''),
    push_magic         VARCHAR(127) NOT NULL CHECK (push_magic <> ''),
    token_hex          VARCHAR(255) NOT NULL CHECK (token_hex <> ''),
    enabled            BOOLEAN NOT NULL DEFAULT 1,
    token_update_tally INTEGER NOT NULL DEFAULT 1,
    last_seen_at       TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    created_at         TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at         TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE (user_id),
    INDEX type (type),
    FOREIGN KEY (device_id) REFERENCES {p}devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (user_id, device_id) REFERENCES {p}users (id, device_id) ON DELETE CASCADE ON UPDATE CASCADE
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}commands (
    command_uuid VARCHAR(127) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (command_uuid <> ''),
    request_type VARCHAR(63) NOT NULL CHECK (request_type <> ''),
    command      MEDIUMTEXT NOT NULL CHECK (SUBSTRING(command, 1, 5) = '<?xml'),
    created_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (command_uuid)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}command_results (
    id            VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    command_uuid  VARCHAR(127) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    status        VARCHAR(31) NOT NULL CHECK (status <> ''),
    result        MEDIUMTEXT NOT NULL CHECK (SUBSTRING(result, 1, 5) = '<?xml'),
    not_now_at    TIMESTAMP NULL,
    not_now_tally INTEGER NOT NULL DEFAULT 0,
    created_at    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id, command_uuid),
    INDEX status (status),
    INDEX {p}command_results_updated_at (updated_at),
    FOREIGN KEY (id) REFERENCES {p}enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (command_uuid) REFERENCES {p}commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}enrollment_queue (
    id           VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    command_uuid VARCHAR(127) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    active       BOOLEAN NOT NULL DEFAULT 1,
    priority     TINYINT NOT NULL DEFAULT 0,
    created_at   TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    updated_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id, command_uuid),
    INDEX {p}enrollment_queue_next (id, active, priority DESC, created_at),
    FOREIGN KEY (id) REFERENCES {p}enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (command_uuid) REFERENCES {p}commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}push_certs (
    topic       VARCHAR(255) NOT NULL CHECK (topic <> ''),
    cert_pem    TEXT NOT NULL CHECK (SUBSTRING(cert_pem, 1, 27) = '-----BEGIN CERTIFICATE-----'),
    key_pem     TEXT NOT NULL CHECK (SUBSTRING(key_pem, 1, 5) = '-----'),
    stale_token INTEGER NOT NULL,
    created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (topic)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}cert_auth_associations (
    id         VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (id <> ''),
    sha256     CHAR(64) NOT NULL CHECK (sha256 <> ''),
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id, sha256),
    INDEX sha256 (sha256)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE OR REPLACE VIEW {p}view_queue AS
    SELECT q.id, q.created_at, q.active, q.priority, c.command_uuid, c.request_type, c.command,
           r.updated_at AS result_updated_at, r.status, r.result
    FROM {p}enrollment_queue AS q
    INNER JOIN {p}commands AS c ON q.command_uuid = c.command_uuid
    LEFT JOIN {p}command_results AS r ON r.command_uuid = q.command_uuid AND r.id = q.id
    ORDER BY q.priority DESC, q.created_at;
