# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A device's life, once per source of identity: Authenticate, TokenUpdate, Idle, a command, its
# report, CheckOut.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

for my $source (qw(signature ssl header)) {
    my $mark   = log_mark();
    my $device = device(source => $source);
    my $id     = $device->{id};

    my $r = checkin($device, 'Authenticate');
    is_status($r, 200, "$source: Authenticate");
    is($r->{body}, '', "$source: an empty reply");
    my $row = db('SELECT * FROM devices WHERE id = ?', $id)->[0];
    is($row->{serial_number}, $device->{serial}, "$source: the serial number is stored");
    like($row->{identity_cert}, qr/^-----BEGIN CERTIFICATE-----/, "$source: the certificate too");
    is($row->{authenticate}, checkin_plist($device, 'Authenticate'),
        "$source: the message is stored as sent");

    is_status(report($device), 200, "$source: Idle before TokenUpdate is served");
    is(db_value('SELECT count(*) FROM enrollments WHERE id = ?', $id), 0,
        "$source: no enrollment yet");

    is_status(checkin($device, 'TokenUpdate', UnlockToken => data("unlock\0token")), 200,
        "$source: TokenUpdate");
    $row = db('SELECT * FROM enrollments WHERE id = ?', $id)->[0];
    is($row->{topic},      $device->{topic}, "$source: topic");
    is($row->{push_magic}, $device->{magic}, "$source: push magic");
    is($row->{token_hex}, unpack('H*', $device->{token}), "$source: token, in lower-case hex");
    is($row->{type}, 'Device', "$source: type");
    ok($row->{enabled}, "$source: enabled");
    is($row->{token_update_tally}, 1, "$source: tally");

    is_status(checkin($device, 'TokenUpdate'), 200, "$source: TokenUpdate again");
    is(db_value('SELECT token_update_tally FROM enrollments WHERE id = ?', $id), 2,
        "$source: tally is counted");
    is(db_value('SELECT unlock_token FROM devices WHERE id = ?', $id), "unlock\0token",
        "$source: an absent unlock token keeps the old one");

    $r = report($device);
    is_status($r, 200, "$source: Idle");
    is($r->{body}, '', "$source: nothing to do");

    my ($command, $uuid) = command_plist('DeviceInformation', Queries => ['UDID', 'Name <&>']);
    is_status(api(PUT => "enqueue/$id?nopush=1", $command), 200, "$source: enqueue");

    $r = report($device);
    is_status($r, 200, "$source: Idle with a command waiting");
    is($r->{body}, $command, "$source: the command, byte for byte");
    is($r->{headers}{'content-type'}, 'application/xml', "$source: its content type");

    $r = report($device, Status => 'NotNow', CommandUUID => $uuid);
    is_status($r, 200, "$source: NotNow");
    is($r->{body}, '', "$source: NotNow is not offered the same command");
    is(report($device)->{body}, $command, "$source: Idle is offered it again");

    my $report = report_plist($device, Status => 'Acknowledged', CommandUUID => $uuid);
    $r = report($device, Status => 'Acknowledged', CommandUUID => $uuid);
    is_status($r, 200, "$source: Acknowledged");
    is($r->{body}, '', "$source: no further command");
    $row = db('SELECT * FROM command_results WHERE id = ? AND command_uuid = ?', $id, $uuid)->[0];
    is($row->{status}, 'Acknowledged', "$source: the status is stored");
    is($row->{result}, $report, "$source: the report is stored as sent");
    is($row->{not_now_tally}, 1, "$source: NotNow was counted");

    is_status(checkin($device, 'CheckOut'), 200, "$source: CheckOut");
    ok(!db_value('SELECT enabled FROM enrollments WHERE id = ?', $id), "$source: disabled");
    is_status(report($device), 200, "$source: a checked-out device is still served");

    log_like($mark, qr/\Q$id\E/, "$source: the log names the enrollment");
    my $secret = quotemeta $device->{magic};
    my $token  = unpack 'H*', $device->{token};
    log_unlike($mark, qr/$secret|$token/, "$source: the log has no secrets");
}

done_testing;
