# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Webhooks: the event of each message, its HMAC, several receivers, memory delivery; the schema of the
# events, and the example of a receiver, both from docs/.
use strict;
use warnings FATAL => 'all';

use JSON::PP ();

use NanoMDM::Ports    ();
use NanoMDM::Receiver ();
use NanoMDM::Schema   ();
use NanoMDM::Test;

my $all    = NanoMDM::Receiver->new;
my $some   = NanoMDM::Receiver->new;
my $memory = NanoMDM::Receiver->new(tls => 'server');
# the example, of which docs/webhook.md tells
my $example_port = NanoMDM::Ports::free();
my ($all_url, $some_url, $memory_url) = ($all->url('/all?a=b'), $some->url, $memory->url);

my $config = <<"END_CONFIG";
NanoMDMGetToken com.apple.maid file:\@scratch\@/maid.token
NanoMDMWebhook "$all_url" key=first-key
NanoMDMWebhook http://127.0.0.1:$example_port/ key=file:\@scratch\@/api.key topics=mdm.TokenUpdate,mdm.Connect
NanoMDMWebhook $some_url topics=mdm.TokenUpdate,mdm.CheckOut retry=1h
NanoMDMWebhook $memory_url delivery=memory ca=\@pki\@/other_ca.pem key=file:\@scratch\@/api.key
<Location "/mdm">
    SetHandler nanomdm
</Location>
<Location "/migration">
    SetHandler nanomdm-migration
    AuthType Basic
    AuthName "nanomdm"
    AuthBasicProvider nanomdm
    Require valid-user
</Location>
\@api\@
END_CONFIG
my $httpd = server(NanoMDM::Httpd->new(config => $config));
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

# The next event of a receiver: its JSON with the request it came in.
my %taken;
sub next_event {
    my ($receiver) = @_;
    my $n = $taken{$receiver}++ // 0;
    eventually { $receiver->count > $n } 20 or return {};
    my ($event) = ($receiver->events($n))[0];
    $event->{request} = ($receiver->requests($n))[0];
    return $event;
}

# Tests for the next event to all.
sub event_ok {
    my ($reply, $topic, $payload, $inner, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    for my $receiver ($all, $memory) {
        my $event = next_event($receiver);
        my %got = map { ($_ => $event->{$_}) } qw(topic event_id);
        is_deeply(\%got, { topic => $topic, event_id => $reply->{headers}{'x-trace-id'} },
            "$name: topic and id") or diag(explain($event), $httpd->log);
        like($event->{created_at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, '… time');
        is($event->{payload}, $payload, '… payload');
        my %inner = %{ $event->{inner} || {} };
        delete $inner{raw_payload};
        is_deeply(\%inner, $inner, '… the rest') or diag(explain(\%inner));
        is(exists $event->{acknowledge_event} ? 1 : 0, $topic eq 'mdm.Connect' ? 1 : 0, '… its kind');
        my $request = $event->{request};
        is($request->{headers}{'content-type'}, 'application/json; charset=utf-8', '… type');
        my $key = $receiver == $all ? 'first-key' : 'test-api-key';
        is($request->{headers}{'x-hmac-signature'}, NanoMDM::Receiver::hmac($key, $request->{body}),
            '… HMAC');
        is("$request->{method} $request->{path}", $receiver == $all ? 'POST /all?a=b' : 'POST /hook',
            '… method and path');
    }
    return;
}

my $device = device();
my $ids = { id => $device->{id}, type => 'Device' };
my %of_device = (udid => $device->{id}, ids => $ids);
for my $n (1, 2, 3) {
    my $type = $n == 1 ? 'Authenticate' : 'TokenUpdate';
    my $r = checkin($device, $type);
    is_status($r, 200, $type);
    event_ok($r, "mdm.$type", checkin_plist($device, $type),
        { %of_device, $n > 1 ? (token_update_tally => $n - 1) : () }, $type);
}
my $user = enroll(device(parent => $device));
my $event = next_event($all);
next_event($memory);
is_deeply($event->{inner}{ids}, { id => $user->{id}, type => 'User', parent_id => $device->{id} },
    'a user channel: ids');

my $r = checkin($device, 'SetBootstrapToken', BootstrapToken => data('secret'), -path => '/mdm?k=v&x=%C3%A4+b');
event_ok($r, 'mdm.SetBootstrapToken', checkin_plist($device, 'SetBootstrapToken', BootstrapToken => data('secret')),
    { %of_device, url_params => { k => 'v', x => "\x{e4} b" } }, 'SetBootstrapToken with parameters');
for my $case (
    ['GetBootstrapToken', $device, 200],
    ['GetToken', $device, 200, TokenServiceType => 'com.apple.maid'],
    ['DeclarativeManagement', $device, 404, Endpoint => 'tokens'],
) {
    my ($type, $who, $status, %members) = @$case;
    $r = checkin($who, $type, %members);
    is_status($r, $status, $type);
    event_ok($r, "mdm.$type", checkin_plist($who, $type, %members), \%of_device, $type);
}
$r = checkin($user, 'UserAuthenticate');
is_status($r, 410, 'UserAuthenticate, declined');
event_ok($r, 'mdm.UserAuthenticate', checkin_plist($user, 'UserAuthenticate'),
    { udid => $device->{id}, ids => { id => $user->{id}, type => 'User', parent_id => $device->{id} } },
    'UserAuthenticate');

# reports
my ($command, $uuid) = command_plist('ProfileList');
is_status(api(PUT => "enqueue/$device->{id}?nopush=1", $command), 200, 'a command');
$r = report($device);
is($r->{body}, $command, 'is handed out');
event_ok($r, 'mdm.Connect', report_plist($device), { %of_device, status => 'Idle' }, 'Idle');
my %report = (Status => 'Acknowledged', CommandUUID => $uuid, Text => "\x{263a}" x 3);
utf8::encode($report{Text});
$r = report($device, %report);
event_ok($r, 'mdm.Connect', report_plist($device, %report),
    { %of_device, status => 'Acknowledged', command_uuid => $uuid }, 'a result');
$r = report($device, Status => 'Error', CommandUUID => 'NEVER-QUEUED');
event_ok($r, 'mdm.Connect', report_plist($device, Status => 'Error', CommandUUID => 'NEVER-QUEUED'),
    { %of_device, status => 'Error', command_uuid => 'NEVER-QUEUED' }, 'an unknown command');
$r = report($device, Status => 'NotNow');
event_ok($r, 'mdm.Connect', report_plist($device, Status => 'NotNow'),
    { %of_device, status => 'NotNow' }, 'no CommandUUID');

# a large one: what a driver would cut
%report = (Status => 'Acknowledged', CommandUUID => 'LARGE', Text => 'x' x 6_000_000);
$r = report($device, %report);
is_status($r, 200, '6 MB');
event_ok($r, 'mdm.Connect', report_plist($device, %report),
    { %of_device, status => 'Acknowledged', command_uuid => 'LARGE' }, '6 MB');

# the example of a receiver, which was not there until now
{
    my $output = var('scratch') . "/example-$$.out";
    my $pid = fork() // die $!;
    if (!$pid) {
        open STDOUT, '>', $output or die;
        exec $^X, 'docs/webhook-receiver.pl', $example_port, var('scratch') . '/api.key' or die;
    }
    my @lines;
    ok((eventually { @lines = split /^/, -e $output ? slurp($output) : ''; @lines >= 8 } 45), 'the example gets events')
        or diag(@lines);
    is(scalar(grep { /^mdm\.TokenUpdate \S+ \Q$device->{id}\E \d+ bytes$/ } @lines), 2, '… and prints them');
    my $silent = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $example_port) or die $!;
    my $forged = request(POST => '/', host => $example_port, body => '{"topic":"mdm.Connect","event_id":"x"}',
        headers => ['X-Hmac-Signature' => NanoMDM::Receiver::hmac('wrong', '{}')]);
    is($forged->{status}, 403, '… a forged one not, after a client that says nothing');
    kill 'KILL', $pid;
    waitpid $pid, 0;
}

# nothing for what was refused, or came by the migration endpoint
my ($n, $m) = ($all->count, $memory->count);
is_status(report(device()), 400, 'refused');
is_status(checkin(device(), 'TokenUpdate'), 400, 'refused');
is_status(checkin($device, 'GetToken', TokenServiceType => 'other'), 400, 'GetToken, unknown');
is_status(checkin($device, 'NoSuch'), 400, 'no message');
my $moved = device();
is_status(api(PUT => 'migration', checkin_plist($moved, 'Authenticate'), base => '/',
    headers => ['Content-Type' => 'application/x-apple-aspen-mdm-checkin']), 200, 'migration');
$r = checkin($device, 'CheckOut');
event_ok($r, 'mdm.CheckOut', checkin_plist($device, 'CheckOut'), \%of_device, 'CheckOut');
is($all->count, $n + 1, 'no event in between');
is($memory->count, $m + 1, '… nor in memory');

is(join(' ', map { $_->{topic} } $some->events), join(' ', ('mdm.TokenUpdate') x 3, 'mdm.CheckOut'),
    'the other webhook: its topics') if eventually { $some->count == 4 } 10;
is($some->count, 4, '… all of them');
is(($some->requests)[0]{headers}{'x-hmac-signature'}, undef, '… no key, no HMAC');

# the schema: each event fits it, and it is not one that everything fits
my $schema = NanoMDM::Schema->new(slurp('docs/webhook.schema.json'));
my $json   = JSON::PP->new->utf8;
# A payload's beginning is enough: millions of letters take long.
sub bodies { return map { $_->{body} =~ s/("raw_payload":"[^"]{4000})[^"]*/$1/r } $_[0]->requests }
for my $case ([all => $all], [memory => $memory], [some => $some]) {
    my ($name, $receiver) = @$case;
    my @bodies = bodies($receiver);
    is(join("\n", map { my $body = $_; map { "$_ in $body" } $schema->errors($json->decode($body)) } @bodies), '',
        "schema: $name, " . @bodies . ' events');
}
my @bodies = bodies($all);
my %topics = map { /"topic":"([^"]*)"/ ? ($1 => 1) : () } @bodies;
is(join(' ', sort keys %topics), join(' ', sort 'mdm.Connect',
    @{ $json->decode(slurp('docs/webhook.schema.json'))->{oneOf}[0]{properties}{topic}{enum} }), '… of all its topics');
my ($update) = grep { /"mdm.TokenUpdate"/ } @bodies;
my ($report) = grep { /"mdm.Connect"/ } @bodies;
for my $case (
    ['no topic',            $update, qr/no member topic/,          sub { delete $_[0]{topic} }],
    ['an unknown topic',    $update, qr{/topic: none of},          sub { $_[0]{topic} = 'mdm.Other' }],
    ['another kind',        $update, qr/0 of oneOf fit/,           sub { $_[0]{topic} = 'mdm.Connect' }],
    ['no kind',             $report, qr/0 of oneOf/,               sub { delete $_[0]{acknowledge_event} }],
    ['another member',      $update, qr/unknown member other/,     sub { $_[0]{other} = 1 }],
    ['another inner one',   $report, qr/unknown member other/,     sub { $_[0]{acknowledge_event}{other} = 1 }],
    ['a tally of a report', $report, qr/unknown member token_up/,  sub { $_[0]{acknowledge_event}{token_update_tally} = 1 }],
    ['no status',           $report, qr/no member status/,         sub { delete $_[0]{acknowledge_event}{status} }],
    ['no event id',         $update, qr/event_id: too short/,      sub { $_[0]{event_id} = '' }],
    ['no time',             $update, qr/created_at: no date-time/, sub { $_[0]{created_at} =~ s/Z$// }],
    ['a tally of 0',        $update, qr/tally: less than 1/,       sub { $_[0]{checkin_event}{token_update_tally} = 0 }],
    ['a tally as text',     $update, qr/tally: no integer/,        sub { $_[0]{checkin_event}{token_update_tally} = '1' }],
    ['half a tally',        $update, qr/tally: no integer/,        sub { $_[0]{checkin_event}{token_update_tally} = 1.5 }],
    ['no enrollment type',  $update, qr{/ids: no member type},     sub { delete $_[0]{checkin_event}{ids}{type} }],
    ['an unknown type',     $update, qr{/ids/type: none of},       sub { $_[0]{checkin_event}{ids}{type} = 'Watch' }],
    ['an id as a number',   $update, qr{/udid: no string},         sub { $_[0]{checkin_event}{udid} = 5 }],
    ['no base64',           $update, qr{/raw_payload: no base64},  sub { $_[0]{checkin_event}{raw_payload} .= '%' }],
    ['parameters',          $report, qr{/url_params/k: no string}, sub { $_[0]{acknowledge_event}{url_params} = { k => {} } }],
    ['no event',            '[]',    qr/: no object/,              sub { }],
) {
    my ($name, $body, $why, $damage) = @$case;
    my $damaged = $json->decode($body);
    $damage->($damaged);
    like(join("\n", $schema->errors($damaged)), $why, "schema: $name does not fit");
}
for my $unknown ('{"maxLength":5}', '{"properties":{"a":{"format":"uri"}}}', '{"oneOf":[{"$ref":"other.json"}]}') {
    ok(!eval { NanoMDM::Schema->new($unknown) }, "a schema that its validator does not know: $unknown");
}

# of ours: other suites may share the database
for my $table (qw(outbox leases)) {
    ok((eventually { db_value("SELECT count(*) FROM mdm_webhook_$table WHERE webhook IN (?, ?)", $all_url, $some_url) == 0 } 10),
        "nothing is left: $table");
}
log_unlike(0, qr/secret|test-api-key|first-key/, 'no key in the log');
$httpd->stop;
done_testing;
