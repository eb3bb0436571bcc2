-- Copyright 2026 The mod_nanomdm authors
-- SPDX-License-Identifier: Apache-2.0
--
-- A database as NanoMDM leaves it on PostgreSQL: its tables, types, keys, checks and indexes (and none of
-- ours), with a few enrollments, queued, postponed and finished commands. Written from the facts of that
-- schema. {p} is the table prefix. Each statement ends with a semicolon at the end of a line.

CREATE TABLE {p}devices (
    id VARCHAR(255) NOT NULL,
    identity_cert TEXT NULL,
    serial_number VARCHAR(127) NULL,
    unlock_token BYTEA NULL,
    unlock_token_at TIMESTAMP NULL,
    authenticate TEXT NOT NULL,
    authenticate_at TIMESTAMP NOT NULL,
    token_update TEXT NULL,
    token_update_at TIMESTAMP NULL,
    bootstrap_token_b64 TEXT NULL,
    bootstrap_token_at TIMESTAMP NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    CHECK (identity_cert IS NULL OR SUBSTRING(identity_cert FROM 1 FOR 27) = '-----BEGIN CERTIFICATE-----'),
    CHECK (serial_number IS NULL OR serial_number <> ''),
    CHECK (unlock_token IS NULL OR LENGTH(unlock_token) > 0),
    CHECK (authenticate <> ''),
    CHECK (token_update IS NULL OR token_update <> ''),
    CHECK (bootstrap_token_b64 IS NULL OR bootstrap_token_b64 <> '')
);

CREATE INDEX {p}serial_number ON {p}devices (serial_number);

CREATE TABLE {p}users (
    id VARCHAR(255) NOT NULL,
    device_id VARCHAR(255) NOT NULL,
    user_short_name VARCHAR(255) NULL,
    user_long_name VARCHAR(255) NULL,
    token_update TEXT NULL,
    token_update_at TIMESTAMP NULL,
    user_authenticate TEXT NULL,
    user_authenticate_at TIMESTAMP NULL,
    user_authenticate_digest TEXT NULL,
    user_authenticate_digest_at TIMESTAMP NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, device_id),
    UNIQUE (id),
    FOREIGN KEY (device_id) REFERENCES {p}devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    CHECK (user_short_name IS NULL OR user_short_name <> ''),
    CHECK (user_long_name IS NULL OR user_long_name <> ''),
    CHECK (token_update IS NULL OR token_update <> ''),
    CHECK (user_authenticate IS NULL OR user_authenticate <> ''),
    CHECK (user_authenticate_digest IS NULL OR user_authenticate_digest <> '')
);

CREATE TABLE {p}enrollments (
    id VARCHAR(255) NOT NULL,
    device_id VARCHAR(255) NOT NULL,
    user_id VARCHAR(255) NULL,
    type VARCHAR(31) NOT NULL,
    topic VARCHAR(255) NOT NULL,
    push_magic VARCHAR(127) NOT NULL,
    token_hex VARCHAR(255) NOT NULL,
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    token_update_tally INTEGER NOT NULL DEFAULT 1,
    last_seen_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE (user_id),
    FOREIGN KEY (device_id) REFERENCES {p}devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (user_id) REFERENCES {p}users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    CHECK (id <> ''),
    CHECK (type <> ''),
    CHECK (topic <> ''),
    CHECK (push_magic <> ''),
    CHECK (token_hex <> '')
);

CREATE INDEX {p}idx_type ON {p}enrollments (type);

CREATE TABLE {p}commands (
    command_uuid VARCHAR(127) NOT NULL,
    request_type VARCHAR(63) NOT NULL,
    command TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (command_uuid),
    CHECK (command_uuid <> ''),
    CHECK (request_type <> ''),
    CHECK (SUBSTRING(command FROM 1 FOR 5) = '<?xml')
);

CREATE TABLE {p}command_results (
    id VARCHAR(255) NOT NULL,
    command_uuid VARCHAR(127) NOT NULL,
    status VARCHAR(31) NOT NULL,
    result TEXT NOT NULL,
    not_now_at TIMESTAMP NULL,
    not_now_tally INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, command_uuid),
    FOREIGN KEY (id) REFERENCES {p}enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (command_uuid) REFERENCES {p}commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
    CHECK (status <> ''),
    CHECK (SUBSTRING(result FROM 1 FOR 5) = '<?xml')
);

CREATE INDEX {p}idx_status ON {p}command_results (status);

CREATE TABLE {p}enrollment_queue (
    id VARCHAR(255) NOT NULL,
    command_uuid VARCHAR(127) NOT NULL,
    active BOOLEAN NOT NULL DEFAULT TRUE,
    priority SMALLINT NOT NULL DEFAULT 0,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, command_uuid),
    FOREIGN KEY (id) REFERENCES {p}enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (command_uuid) REFERENCES {p}commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE TABLE {p}push_certs (
    topic VARCHAR(255) NOT NULL,
    cert_pem TEXT NOT NULL,
    key_pem TEXT NOT NULL,
    stale_token INTEGER NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (topic),
    CHECK (topic <> ''),
    CHECK (SUBSTRING(cert_pem FROM 1 FOR 27) = '-----BEGIN CERTIFICATE-----'),
    CHECK (SUBSTRING(key_pem FROM 1 FOR 5) = '-----')
);

CREATE TABLE {p}cert_auth_associations (
    id VARCHAR(255) NOT NULL,
    sha256 CHAR(64) NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id, sha256),
    CHECK (id <> ''),
    CHECK (sha256 <> '')
);

CREATE VIEW {p}view_queue AS
    SELECT q.id, q.created_at, q.active, q.priority, c.command_uuid, c.request_type, c.command,
           r.updated_at AS result_updated_at, r.status, r.result
    FROM {p}enrollment_queue q JOIN {p}commands c ON c.command_uuid = q.command_uuid
    LEFT JOIN {p}command_results r ON r.id = q.id AND r.command_uuid = q.command_uuid
    ORDER BY q.priority DESC, q.created_at;

CREATE FUNCTION {p}touch() RETURNS TRIGGER AS
    $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$ LANGUAGE plpgsql;

CREATE TRIGGER {p}touch_devices BEFORE UPDATE ON {p}devices
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_users BEFORE UPDATE ON {p}users
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_enrollments BEFORE UPDATE ON {p}enrollments
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_commands BEFORE UPDATE ON {p}commands
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_command_results BEFORE UPDATE ON {p}command_results
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_enrollment_queue BEFORE UPDATE ON {p}enrollment_queue
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_push_certs BEFORE UPDATE ON {p}push_certs
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

CREATE TRIGGER {p}touch_cert_auth_associations BEFORE UPDATE ON {p}cert_auth_associations
    FOR EACH ROW EXECUTE FUNCTION {p}touch();

-- Four devices: a Mac with a user channel, a Shared iPad with one, a user enrollment, one checked out.

INSERT INTO {p}devices (id, identity_cert, serial_number, unlock_token, unlock_token_at, authenticate,
        authenticate_at, token_update, token_update_at, bootstrap_token_b64, bootstrap_token_at,
        created_at, updated_at) VALUES
    ('MAC-1', '-----BEGIN CERTIFICATE-----', 'C02MAC1', NULL, NULL, '<?xml version="1.0"?>', '2026-01-01 10:00:00', '<?xml version="1.0"?>', '2026-01-01 10:00:00', 'Ym9vdHN0cmFw', '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('IPAD-1', '-----BEGIN CERTIFICATE-----', 'DMPIPAD1', '\x00ff10', '2026-01-01 10:00:00', '<?xml version="1.0"?>', '2026-01-01 10:00:00', '<?xml version="1.0"?>', '2026-01-01 10:00:00', NULL, NULL, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('BYOD-1', NULL, NULL, NULL, NULL, '<?xml version="1.0"?>', '2026-01-01 10:00:00', '<?xml version="1.0"?>', '2026-01-01 10:00:00', NULL, NULL, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('GONE-1', '-----BEGIN CERTIFICATE-----', 'C02GONE1', NULL, NULL, '<?xml version="1.0"?>', '2026-01-01 10:00:00', '<?xml version="1.0"?>', '2026-01-01 10:00:00', NULL, NULL, '2026-01-01 10:00:00', '2026-01-01 10:00:00');

INSERT INTO {p}users (id, device_id, user_short_name, user_long_name, token_update, token_update_at,
        user_authenticate, user_authenticate_at, created_at, updated_at) VALUES
    ('MAC-1:JANE', 'MAC-1', 'jane', 'Jane Doe', '<?xml version="1.0"?>', '2026-01-01 10:00:00', '<?xml version="1.0"?>', '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('IPAD-1:pupil@example.org', 'IPAD-1', 'pupil@example.org', NULL, '<?xml version="1.0"?>', '2026-01-01 10:00:00', NULL, NULL, '2026-01-01 10:00:00', '2026-01-01 10:00:00');

INSERT INTO {p}enrollments (id, device_id, user_id, type, topic, push_magic, token_hex, enabled,
        token_update_tally, last_seen_at, created_at, updated_at) VALUES
    ('MAC-1', 'MAC-1', NULL, 'Device', 'com.apple.mgmt.External.old', 'magic-1', 'aabb01', TRUE, 3, '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('MAC-1:JANE', 'MAC-1', 'MAC-1:JANE', 'User', 'com.apple.mgmt.External.old', 'magic-2', 'aabb02', TRUE, 1, '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('IPAD-1', 'IPAD-1', NULL, 'Device', 'com.apple.mgmt.External.old', 'magic-3', 'aabb03', TRUE, 1, '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('IPAD-1:pupil@example.org', 'IPAD-1', 'IPAD-1:pupil@example.org', 'Shared iPad', 'com.apple.mgmt.External.old', 'magic-4', 'aabb04', TRUE, 1, '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('BYOD-1', 'BYOD-1', NULL, 'User Enrollment (Device)', 'com.apple.mgmt.External.old', 'magic-5', 'aabb05', TRUE, 1, '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('GONE-1', 'GONE-1', NULL, 'Device', 'com.apple.mgmt.External.old', 'magic-6', 'aabb06', FALSE, 0, '2026-01-01 10:00:00', '2026-01-01 10:00:00', '2026-01-01 10:00:00');

-- The uuids tell what is to become of them.

INSERT INTO {p}commands (command_uuid, request_type, command, created_at, updated_at) VALUES
    ('done', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>done</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('error', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>error</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('cleared', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>cleared</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('third', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>third</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('fourth', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>fourth</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('second-not-now', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>second-not-now</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('first-priority', 'ProfileList', '<?xml version="1.0"?><plist version="1.0"><dict><key>CommandUUID</key><string>first-priority</string></dict></plist>', '2026-01-01 10:00:00', '2026-01-01 10:00:00');

-- Finished commands stay active.

INSERT INTO {p}enrollment_queue (id, command_uuid, active, priority, created_at, updated_at) VALUES
    ('MAC-1', 'done', TRUE, 0, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('MAC-1', 'error', TRUE, 9, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('MAC-1', 'cleared', FALSE, 0, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('MAC-1', 'second-not-now', TRUE, 0, '2026-01-02 10:00:00', '2026-01-02 10:00:00'),
    ('MAC-1', 'third', TRUE, 0, '2026-01-03 10:00:00', '2026-01-03 10:00:00'),
    ('MAC-1', 'fourth', TRUE, 0, '2026-01-04 10:00:00', '2026-01-04 10:00:00'),
    ('MAC-1', 'first-priority', TRUE, 5, '2026-01-04 10:00:00', '2026-01-04 10:00:00'),
    ('MAC-1:JANE', 'third', TRUE, 0, '2026-01-03 10:00:00', '2026-01-03 10:00:00'),
    ('IPAD-1', 'done', TRUE, 0, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('IPAD-1:pupil@example.org', 'third', TRUE, 0, '2026-01-03 10:00:00', '2026-01-03 10:00:00'),
    ('BYOD-1', 'third', TRUE, 0, '2026-01-03 10:00:00', '2026-01-03 10:00:00');

INSERT INTO {p}command_results (id, command_uuid, status, result, not_now_at, not_now_tally, created_at,
        updated_at) VALUES
    ('MAC-1', 'done', 'Acknowledged', '<?xml version="1.0"?>', NULL, 0, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('MAC-1', 'error', 'Error', '<?xml version="1.0"?>', NULL, 0, '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('MAC-1', 'second-not-now', 'NotNow', '<?xml version="1.0"?>', '2026-01-02 10:00:00', 2, '2026-01-02 10:00:00', '2026-01-02 10:00:00'),
    ('IPAD-1', 'done', 'CommandFormatError', '<?xml version="1.0"?>', '2026-01-01 10:00:00', 1, '2026-01-01 10:00:00', '2026-01-01 10:00:00');

INSERT INTO {p}push_certs (topic, cert_pem, key_pem, stale_token, created_at, updated_at) VALUES
    ('com.apple.mgmt.External.old', '-----BEGIN CERTIFICATE-----', '-----BEGIN PRIVATE KEY-----', 7, '2026-01-01 10:00:00', '2026-01-01 10:00:00');

INSERT INTO {p}cert_auth_associations (id, sha256, created_at, updated_at) VALUES
    ('MAC-1', '{sha256}', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('IPAD-1', '{sha256_ipad}', '2026-01-01 10:00:00', '2026-01-01 10:00:00'),
    ('BYOD-1', '{sha256_byod}', '2026-01-01 10:00:00', '2026-01-01 10:00:00');
