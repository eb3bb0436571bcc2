# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Certificates belong to enrollments: reuse is refused, renewals are not, and retroactive takes in
# those that have none.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $one = enroll(device());
my $two = enroll(device());

# another's certificate
my $thief = { %$two, identity => $one->{identity} };
is_status(report($thief), 400, "a report with another's certificate");
is_status(checkin($thief, 'TokenUpdate'),  400, '… a TokenUpdate');
is_status(checkin($thief, 'Authenticate'), 400, '… an Authenticate');
my $new = device(identity => $one->{identity});
is_status(checkin($new, 'Authenticate'), 400, 'a new device with a used certificate');
is(db_value('SELECT count(*) FROM devices WHERE id = ?', $new->{id}), 0, '… is not stored');

# renewal: Authenticate adds a certificate, the old one stays
my $renewed = { %$one, identity => pki->issue('renewed-' . uuid(), issuer => 'ca') };
is_status(report($renewed), 400, 'an unknown certificate of a known device');
is_status(checkin($renewed, 'Authenticate'), 200, 'Authenticate with a new certificate');
is_status(checkin($renewed, 'TokenUpdate'),  200, '… and TokenUpdate');
is_status(report($renewed), 200, '… and a report');
is_status(report($one),     200, 'the old certificate stays good');
is(db_value('SELECT count(*) FROM cert_auth_associations WHERE id = ?', $one->{id}), 2,
    'two certificates');

# a user channel has its device's certificate
my $user = enroll(device(parent => $one), 'a user channel');
is_status(report($user), 200, 'a report of the user channel');
is_status(report({ %$user, identity => $two->{identity} }), 400,
    "a user channel with another's certificate");

# migration makes an enrollment without certificate
my $migrated = device();
for my $type (qw(Authenticate TokenUpdate)) {
    is_status(api(PUT => '/migration', checkin_plist($migrated, $type), base => ''), 200,
        "migration: $type");
}
is_status(report($migrated), 400, 'a migrated device is refused');
is_status(report($migrated, -host => 'retroactive'), 200, '… unless retroactive is on');
is_status(report($migrated), 200, '… and from then on it is associated');
my $other = { %$migrated, identity => pki->issue('other-' . uuid(), issuer => 'ca') };
is_status(report($other, -host => 'retroactive'), 400, 'retroactive gives no second certificate');
my $third = device();
is_status(api(PUT => '/migration', checkin_plist($third, 'Authenticate'), base => ''), 200,
    'another migrated device');
is_status(report({ %$third, identity => $one->{identity} }, -host => 'retroactive'), 400,
    "retroactive gives no other device's certificate");

done_testing;
