# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A database that NanoMDM has filled, taken over in place and handed back: its devices go on with
# their queue at once, and NanoMDM would find in it what it expects, before and after an upgrade.
#
# Databases: pgsql mysql (NanoMDM has no such schema on SQLite)

use strict;
use warnings FATAL => 'all';

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(encode_base64);

use NanoMDM::Test;

my $driver  = var('nanomdm_driver');
my $fixture = var('top_dir') . "/t/database/nanomdm.$driver.sql";
my ($all)   = var('nanomdm_database') =~ /^\w+\s+"?([^"]*)/;

# How NanoMDM picks a device's next command: an active row without a result, or with NotNow.
sub nanomdm_next {
    my ($prefix, $id) = @_;
    return db_value("SELECT q.command_uuid FROM ${prefix}enrollment_queue AS q"
        . " LEFT JOIN ${prefix}command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid"
        . " WHERE q.id = ? AND q.active = TRUE AND (r.status IS NULL OR r.status = 'NotNow')"
        . ' ORDER BY q.priority DESC, q.created_at LIMIT 1', $id) // '';
}

# One test: this is the command that a device gets, and the one that NanoMDM would have given it.
sub next_is {
    my ($prefix, $device, $expected, $name, %report) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $r = report($device, %report);
    is_status($r, 200, "$name: 200");
    my ($uuid) = $r->{body} =~ m{<key>CommandUUID</key>\s*<string>([^<]*)};
    is(join(' ', $uuid // '', nanomdm_next($prefix, $device->{id})),
        join(' ', $expected, $report{-nanomdm} // $expected), "… $expected, for NanoMDM too");
    return;
}

my $round = 0;
for my $case (['', 0], ['nano_', 0], ['', 1], ['nano_', 1]) {
    my ($prefix, $upgraded) = @$case;
    my $name = ($upgraded ? 'upgraded' : 'as it is') . ($prefix ? ", prefix $prefix" : '');

    # the identities of its devices
    my $mac  = device(udid => 'MAC-1', source => 'header');
    my $jane = device(parent => $mac, user_id => 'JANE');
    my $ipad = device(udid => 'IPAD-1');    # which signs
    my $shared = { %$ipad, id => 'IPAD-1:pupil@example.org', ids => { UDID => 'IPAD-1',
        UserID => 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF', UserShortName => 'pupil@example.org' } };
    my $byod = device(source => 'header', ids => { EnrollmentID => 'BYOD-1' }, id => 'BYOD-1');
    my %sha256 = map { ($_->[0] => sha256_hex(pki->der($_->[1]{identity}))) }
        ['sha256', $mac], ['sha256_ipad', $ipad], ['sha256_byod', $byod];

    my $params = NanoMDM::Database::another($driver, $all, 'nanomdm_takeover_' . ++$round);
    my $dsn = NanoMDM::Database::dsn($driver, $params);
    NanoMDM::Database::load(NanoMDM::Database::connect_to($dsn), $fixture, p => $prefix, %sha256);
    if ($upgraded) {
        my ($status, $output) = tool('nanomdm-schema', 'upgrade', '--database', "$driver $params",
            '--prefix', $prefix);
        is($status, 0, "$name: upgrade") or diag($output);
    }
    my ($role, $of_httpd) = NanoMDM::Database::role($driver, $params);
    my $set_prefix = $prefix ? "NanoMDMTablePrefix $prefix" : '';
    my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $driver "$of_httpd"
NanoMDMSchema            check
$set_prefix
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMAPIKey            file:\@scratch\@/api.key
NanoMDMUserAuthenticate  empty-digest
NanoMDMLastSeenInterval  200ms
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
<Location "/mdm">
    SetHandler nanomdm
</Location>
\@api\@
END_CONFIG
    $httpd->{dsn} = $dsn;
    server($httpd);
    ok($httpd->start, "$name: starts") or diag($httpd->{output}, $httpd->log);
    my @notices = $httpd->log =~ /can be used but is not complete.*nanomdm-schema upgrade.*mdm_dead_tokens/g;
    is(scalar @notices, $upgraded ? 0 : 1, '… and says what is missing, once');
    unlike($httpd->log, qr/nanomdm:(?:error|warn)\]/, '… without warnings');

    # the queue
    next_is($prefix, $mac, 'first-priority', "$name: the Mac's first Idle");
    next_is($prefix, $mac, 'second-not-now', '… its answer', Status => 'Acknowledged',
        CommandUUID => 'first-priority');
    next_is($prefix, $mac, 'third', '… NotNow', Status => 'NotNow', CommandUUID => 'second-not-now',
        -nanomdm => 'second-not-now');    # it leaves those out while the device says so, too
    is(db_value("SELECT not_now_tally FROM ${prefix}command_results WHERE id = 'MAC-1'"
        . " AND command_uuid = 'second-not-now'"), 3, '… which is counted on');
    next_is($prefix, $mac, 'second-not-now', '… an Error', Status => 'Error', CommandUUID => 'third');
    next_is($prefix, $mac, 'fourth', '… Acknowledged', Status => 'Acknowledged',
        CommandUUID => 'second-not-now');
    next_is($prefix, $mac, '', '… and the last', Status => 'Acknowledged', CommandUUID => 'fourth');
    next_is($prefix, $jane, 'third', "$name: its user channel");
    next_is($prefix, $jane, '', '… answers', Status => 'Acknowledged', CommandUUID => 'third');
    next_is($prefix, $ipad, '', "$name: the iPad, whose command is finished");
    next_is($prefix, $shared, 'third', '… its user');
    next_is($prefix, $byod, 'third', "$name: a user enrollment");
    is(db_value("SELECT count(*) FROM ${prefix}enrollment_queue WHERE active = TRUE AND id = 'MAC-1'"),
        $upgraded ? 0 : 2, '… what NanoMDM had finished stays as it left it, unless upgraded');

    # messages of those devices, and a new one's; each kind once
    is(encode_base64(checkin($mac, 'GetBootstrapToken')->{body} =~ m{<data>\s*(.*?)\s*</data>}s ? $1 : '', ''),
        encode_base64('Ym9vdHN0cmFw', ''), "$name: the Mac gets its bootstrap token");
    is_status(checkin($mac, 'SetBootstrapToken', BootstrapToken => data('new')), 200, '… sets a new one');
    is_status(checkin($ipad, 'TokenUpdate', UnlockToken => data("\0\xff")), 200, '… TokenUpdate with an unlock token');
    is(unpack('H*', db_value("SELECT unlock_token FROM ${prefix}devices WHERE id = 'IPAD-1'")), '00ff', '… as bytes');
    is_status(checkin($mac, 'TokenUpdate'), 200, '… TokenUpdate');
    is(db_value("SELECT token_update_tally FROM ${prefix}enrollments WHERE id = 'MAC-1'"), 4, '… is counted on');
    is_status(checkin($jane, 'TokenUpdate'), 200, '… of the user channel');
    is_status(checkin($jane, 'UserAuthenticate'), 200, '… UserAuthenticate');
    is_status(checkin($shared, 'TokenUpdate', UserShortName => 'pupil@example.org'), 200, '… of the Shared iPad user');
    my $new = device(source => 'header');
    enroll($new, '… a new device enrolls');
    enroll(device(parent => $new), '… and its user channel');
    my ($command, $uuid) = command_plist('DeviceInformation');
    is_status(api(PUT => "enqueue/MAC-1,MAC-1:JANE,$new->{id}?nopush=1", $command), 200, "$name: enqueue");
    is(nanomdm_next($prefix, $_->{id}), $uuid, "… NanoMDM would give it to $_->{id}") for $mac, $jane, $new;
    next_is($prefix, $new, $uuid, '… the module does');
    next_is($prefix, $new, '', '… and it is finished for both', Status => 'Acknowledged', CommandUUID => $uuid);
    my @view = @{ db("SELECT id FROM ${prefix}view_queue WHERE command_uuid = ? AND status IS NULL"
        . ' ORDER BY id', $uuid) };
    is(join(' ', map { $_->{id} } @view), 'MAC-1 MAC-1:JANE', '… as in the view');
    if ($driver eq 'mysql' && $upgraded) {
        is_status(checkin($mac, 'Authenticate', Filler => 'x' x 100000), 200, '… a long Authenticate');
    } else {
        is_status(checkin($mac, 'Authenticate'), 200, '… Authenticate');
    }
    is_status(report($mac), 200, '… which ends what was queued');
    is(nanomdm_next($prefix, 'MAC-1'), '', '… for NanoMDM, too');
    is_status(checkin($byod, 'CheckOut'), 200, '… CheckOut');
    is(db_value("SELECT enabled FROM ${prefix}enrollments WHERE id = 'BYOD-1'"), 0, '… disables');
    is(db_value("SELECT count(*) FROM ${prefix}enrollments AS e JOIN ${prefix}devices AS d ON d.id = e.device_id"
        . ' WHERE e.device_id = ?', $new->{id}), 2, '… the new device is complete');

    # an upgrade while httpd runs
    unless ($upgraded) {
        my ($status, $output) = tool('nanomdm-schema', 'upgrade', '--database', "$driver $params",
            '--prefix', $prefix);
        is($status, 0, "$name: upgraded while httpd runs") or diag($output);
        NanoMDM::Database::connect_to($dsn)->do("GRANT SELECT, INSERT, UPDATE, DELETE"
            . " ON ${prefix}mdm_dead_tokens TO $role") if $driver eq 'pgsql';
        is_status(report($ipad), 200, '… which goes on');
        enroll(device(source => 'header'), '… with new devices');
        my $mark = log_mark();
        ok(defined $httpd->signal('USR1'), '… a reload');
        log_like($mark, qr/child ready/, '… is done');
        log_unlike($mark, qr/not complete/, '… and finds it complete');
    }

    # NanoMDM again: writes as it does, with what it leaves to the schema
    my $dbh = NanoMDM::Database::connect_to($dsn);
    $dbh->do("INSERT INTO ${prefix}commands (command_uuid, request_type, command) VALUES ('back', 'X', '<?xml?>')");
    $dbh->do("INSERT INTO ${prefix}enrollment_queue (id, command_uuid) VALUES ('IPAD-1', 'back')");
    is(nanomdm_next($prefix, 'IPAD-1'), 'back', "$name: NanoMDM queues a command and finds it");
    $dbh->do("INSERT INTO ${prefix}command_results (id, command_uuid, status, result)"
        . " VALUES ('IPAD-1', 'back', 'Acknowledged', '<?xml')");
    next_is($prefix, $ipad, '', '… and has finished it, its row active still: neither gives it again');
    ok(!eval { $dbh->do("INSERT INTO ${prefix}enrollment_queue (id, command_uuid) VALUES ('NOBODY', 'back')") },
        '… its foreign keys hold');
    $httpd->stop;
    NanoMDM::Database::drop_role($driver, $params, $role);
}

done_testing;
