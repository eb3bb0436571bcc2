# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Enrollment ids of every kind, the lengths of values, races for a certificate, the queue's order and
# what each message does to it: the rules of the tables that the other suites do not walk through.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);

use NanoMDM::Test;

my $type = 'application/x-apple-aspen-mdm-checkin';

sub enqueue {
    my ($who, %o) = @_;
    my ($command, $uuid) = command_plist('ProfileList', %o);
    my $r = api(PUT => 'enqueue/' . join(',', map { $_->{id} } @$who) . '?nopush=1', $command);
    is_status($r, 200, 'enqueue');
    return ($command, $uuid);
}

# methods and content types
my $device = enroll(device());
my $id = $device->{id};
my $body = checkin_plist($device, 'TokenUpdate');
my @signed = identity_headers($device, $body);
for my $case (
    ['POST',                     POST => $type, 200],
    ['a type with a parameter',  PUT  => "$type; charset=UTF-8", 200],
    ['a type in another case',   PUT  => uc $type, 200],
    ['a report by its type',     PUT  => 'application/xml', 400],
) {
    my ($name, $method, $content_type, $status) = @$case;
    is_status(request($method => '/mdm', body => $body,
        headers => ['Content-Type' => $content_type, @signed]), $status, "check-in: $name");
}
is_status(request(PUT => '/mdm', body => $body, headers => \@signed), 400, 'check-in without a type: a report');
my $report = report_plist($device);
@signed = identity_headers($device, $report);
is_status(request(POST => '/mdm', body => $report, headers => \@signed), 200, 'a report: POST, no type');
is_status(request($_ => '/mdm', body => $report, headers => \@signed), 405, "a report: $_") for qw(DELETE PATCH);
my $r = request(GET => '/checkin');
is_status($r, 405, 'GET');
like($r->{headers}{allow} // '', qr/PUT/, '… Allow');

# kinds of enrollments
my $byod = device();
my $byod_id = $byod->{id};
$byod->{ids} = { EnrollmentID => $byod_id };
enroll($byod, 'User Enrollment (Device)');
my $byod_user = { %$byod, parent => $byod, id => "$byod_id:jane", short_name => 'jane',
    ids => { EnrollmentID => $byod_id, EnrollmentUserID => 'jane' } };
enroll($byod_user, 'User Enrollment');
my $row = db('SELECT * FROM enrollments WHERE id = ?', "$byod_id:jane")->[0];
is($row->{type}, 'User Enrollment', '… its type');
is($row->{device_id}, $byod_id, '… and device');
my $both = device();
$both->{ids}{EnrollmentID} = 'E-' . uuid();
enroll($both, 'UDID and EnrollmentID');
is(db_value('SELECT type FROM enrollments WHERE id = ?', $both->{ids}{UDID}), 'Device', '… UDID comes first');
my $upper = enroll(device(udid => 'CASE-' . uuid()));
my $lower = enroll(device(udid => lc $upper->{id}), 'ids are case-sensitive');
is(db_value('SELECT count(*) FROM enrollments WHERE id IN (?, ?)', $upper->{id}, $lower->{id}), 2, '… two');
my $long = device(udid => substr(uuid() . 'x' x 255, 0, 255));
enroll($long, 'an id of 255 bytes');
is_status(checkin(device(parent => $long), 'TokenUpdate'), 400, '… has no room for a user channel');
for my $colon (
    ['UDID',          { UDID => "$id:x" }],
    ['EnrollmentID',  { EnrollmentID => "$id:x" }],
    ['UDID of a user channel', { UDID => "$id:x", UserID => 'y' }],
) {
    my ($name, $ids) = @$colon;
    for my $message (qw(Authenticate TokenUpdate)) {
        is_status(checkin({ %{ device() }, ids => $ids }, $message), 400, "a colon in $name: $message");
    }
    is_status(report({ %{ device() }, ids => $ids }), 400, '… a report');
}
is(db_value('SELECT count(*) FROM devices WHERE id LIKE ?', '%:%'), 0, '… nothing is stored');
is_status(report({ %$device, ids => { UDID => "a\x01b" } }), 400, 'a control character in an id');
is_status(checkin({ %{ device() }, ids => { UDID => ' ' } }, 'Authenticate'), 400, 'an id of a blank');
is_status(report({ %$device, ids => { UDID => "$id " } }), 400, '… and a blank behind one, which MariaDB ignores');
is_status(report({ %$device, ids => { UDID => "$id ", UserID => 'x' } }), 400, '… of a user channel, too');
my $shared = { %$device, ids => { UDID => $id, UserID => 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF' } };
is_status(checkin($shared, 'TokenUpdate'), 400, 'a Shared iPad without UserShortName');

# lengths: the longest that fits, and one more
for my $case (
    ['Authenticate', 'SerialNumber', 127],
    ['Authenticate', 'Topic',        255],
    ['TokenUpdate',  'PushMagic',    127],
    ['TokenUpdate',  'Topic',        255],
) {
    my ($message, $key, $max) = @$case;
    is_status(checkin($device, $message, $key => 'x' x $max), 200, "$message: $key of $max");
    is_status(checkin($device, $message, $key => 'x' x ($max + 1)), 400, '… and one more');
    next if $message eq 'Authenticate';
    is_status(checkin($device, $message, $key => ''), 400, '… and empty');
}
is_status(checkin($device, 'TokenUpdate', Token => data('')), 400, 'TokenUpdate: an empty Token');
is_status(checkin($device, 'TokenUpdate', Token => data('x' x 128)), 400, '… one too long for its column');
is_status(report($device, Status => 'x' x 31, CommandUUID => uuid()), 200, 'Status of 31');
is_status(report($device, Status => 'Error', CommandUUID => 'x' x 127), 200, 'CommandUUID of 127');
is_status(report($device, Status => 'Error', CommandUUID => 'x' x 128), 400, '… and of 128');
is_status(report($device, Status => ''), 400, 'an empty Status');
my $bare = device();
is_status(checkin($bare, 'Authenticate', SerialNumber => ''), 200, 'an empty SerialNumber');
is(db_value('SELECT serial_number FROM devices WHERE id = ?', $bare->{id}), undef, '… is as if absent');
is_status(checkin($bare, 'Authenticate', SerialNumber => undef), 200, '… and an absent one is fine');
is_status(checkin($bare, 'TokenUpdate', UnlockToken => data('')), 200, 'an empty UnlockToken');
is(db_value('SELECT unlock_token FROM devices WHERE id = ?', $bare->{id}), undef, '… too');

# certificates: a chain to any certificate of the CA file; the first of a header is the leaf
for my $source (qw(signature header)) {
    my $name = pki->issue('via-' . uuid(), issuer => 'intermediate');
    is_status(checkin(device(identity => $name, source => $source, host => 'partial'), 'Authenticate'), 200,
        "$source: an authority that is not self-signed");
    is_status(checkin(device(source => $source, host => 'partial'), 'Authenticate'), 400,
        '… does not admit those of the one above');
}
my $leaf = device(source => 'header');
sub pem { my ($name) = @_; return slurp(pki->cert($name)) =~ s/\A.*?(?=-----BEGIN)//sr }
sub escape { my ($text) = @_; return $text =~ s/([^A-Za-z0-9\-._~])/sprintf '%%%02X', ord $1/ger }
$body = checkin_plist($leaf, 'Authenticate');
for my $case (
    ['leaf first',      [$leaf->{identity}, 'ca'], 200],
    ['a stranger first', ['other_ca', $leaf->{identity}], 400],
    ['a stranger behind', [$leaf->{identity}, 'other_ca'], 200],
) {
    my ($name, $certs, $status) = @$case;
    is_status(request(PUT => '/mdm-header', body => $body, headers => ['Content-Type' => $type,
        'X-Client-Cert' => escape(join '', map { pem($_) } @$certs)]), $status, "header: several, $name");
}

# two devices race for one new certificate: one wins
for (1 .. 3) {
    my $identity = pki->issue('race-' . uuid(), issuer => 'ca');
    my @racers = map { device(identity => $identity) } 1 .. 4;
    my @pids;
    for my $racer (@racers) {
        my $text = checkin_plist($racer, 'Authenticate');
        my @headers = ('Content-Type' => $type, identity_headers($racer, $text));
        my $pid = fork() // die;
        if (!$pid) {
            require POSIX;
            my $status = request(PUT => '/mdm', body => $text, headers => \@headers)->{status};
            POSIX::_exit($status == 200 ? 1 : $status == 400 ? 2 : 3);
        }
        push @pids, $pid;
    }
    my @ends = sort map { waitpid $_, 0; $? >> 8 } @pids;
    is("@ends", '1 2 2 2', 'a race for one certificate has one winner');
}

# the queue: commands of several devices and channels, NotNow, Authenticate
my $user = enroll(device(parent => $device), 'a user channel');
is_status(checkin($device, $_), 200, $_) for qw(Authenticate TokenUpdate);
enroll($user, 'the user channel again');
my ($first, $first_uuid)   = enqueue([$device, $user]);
my ($second, $second_uuid) = enqueue([$device]);
my ($third, $third_uuid)   = enqueue([$user, $device]);
is(report($device)->{body}, $first, 'first in, first out');
is(report($device, Status => 'NotNow', CommandUUID => $first_uuid)->{body}, $second, 'NotNow: the next one');
is(report($device, Status => 'NotNow', CommandUUID => $second_uuid)->{body}, $third, '… and the next');
is(report($device, Status => 'NotNow', CommandUUID => $third_uuid)->{body}, '', '… until there is none');
$row = db('SELECT * FROM command_results WHERE id = ? AND command_uuid = ?', $id, $first_uuid)->[0];
is($row->{not_now_tally}, 1, '… counted');
my $since = $row->{not_now_at};
ok($since, '… with the time of the first');
report($device, Status => 'NotNow', CommandUUID => $first_uuid);
$row = db('SELECT * FROM command_results WHERE id = ? AND command_uuid = ?', $id, $first_uuid)->[0];
is($row->{not_now_tally}, 2, 'NotNow again: counted');
is($row->{not_now_at}, $since, '… the time is still that of the first');
is(report($device)->{body}, $first, 'Idle offers them again');
is(report($device, Status => 'Error', CommandUUID => $second_uuid)->{body}, $first, '… and so does a result');
is(report($device, Status => 'CommandFormatError', CommandUUID => $first_uuid)->{body}, $third,
    'CommandFormatError is final');
is(report($user)->{body}, $first, 'a user channel has a queue of its own');
is(report($user, Status => 'Acknowledged', CommandUUID => $first_uuid)->{body}, $third, '… and results');
is(db_value('SELECT active FROM enrollment_queue WHERE id = ? AND command_uuid = ?', $id, $first_uuid), 0,
    'a finished row is not active');
my $report_again = report_plist($user, Status => 'Error', CommandUUID => $first_uuid, Again => 'x');
send_message($user, 'x/y', $report_again);
is(db_value('SELECT result FROM command_results WHERE id = ? AND command_uuid = ?', $user->{id}, $first_uuid),
    $report_again, 'a repeated report overwrites');

# another's command is nobody else's
is_status(report($byod, Status => 'Acknowledged', CommandUUID => $third_uuid), 200, "a report for another's command");
is(db_value('SELECT count(*) FROM command_results WHERE id = ?', $byod_id), 0, '… stores nothing');

# Authenticate: the unfinished queue goes, of the device and of its channels
is_status(checkin($device, 'Authenticate'), 200, 'Authenticate');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE id IN (?, ?) AND active = TRUE', $id, $user->{id}), 0,
    '… ends the unfinished queue');
is(report($device)->{body}, '', '… of the device');
is(report($user)->{body}, '', '… and of the user channel');
is(db_value('SELECT count(*) FROM enrollments WHERE device_id = ? AND enabled = TRUE', $id), 0, '… disables both');
is_status(checkin($device, 'TokenUpdate'), 200, 'TokenUpdate');
is(db_value('SELECT token_update_tally FROM enrollments WHERE id = ?', $id), 1, '… begins to count anew');
is(db_value('SELECT enabled FROM enrollments WHERE id = ?', $user->{id}), 0, '… the user channel waits for its own');
ok(eventually { db_value('SELECT last_seen_at FROM enrollments WHERE id = ?', $id) }, 'last seen is noted');

# user channels: what is stored
is(db_value('SELECT user_long_name FROM users WHERE id = ?', $user->{id}), 'Jane Doe', 'the long name');
my $digest = { %$user, host => 'digest' };
is_status(checkin($digest, 'UserAuthenticate'), 200, 'empty-digest: UserAuthenticate');
ok(db_value('SELECT user_authenticate FROM users WHERE id = ?', $user->{id}), '… is stored');
is_status(checkin($digest, 'UserAuthenticate', DigestResponse => 'abc'), 200, '… with a digest');
ok(db_value('SELECT user_authenticate_digest FROM users WHERE id = ?', $user->{id}), '… too');
is_status(checkin($user, 'UserAuthenticate', DigestResponse => ''), 410, 'an empty DigestResponse is as if absent');

# bootstrap token: bytes of all kinds
my $token = join '', map { chr } 0 .. 255;
is_status(checkin($device, 'SetBootstrapToken', BootstrapToken => data($token)), 200, 'SetBootstrapToken');
is(db_value('SELECT bootstrap_token_b64 FROM devices WHERE id = ?', $id), encode_base64($token, ''),
    '… in base64');
is_status(checkin($device, 'SetBootstrapToken', BootstrapToken => data('')), 200, 'an empty one');
is(db_value('SELECT bootstrap_token_b64 FROM devices WHERE id = ?', $id), undef, '… clears it');

# /version
is_status(request(POST => '/version', body => 'x'), 405, '/version: POST');
is(request(GET => '/version')->{body}, '{"version":"v0.1.0"}', '/version: as specified');

done_testing;
