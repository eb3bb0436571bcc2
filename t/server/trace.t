# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# One trace id per request, in the reply, the access log and UNIQUE_ID; and what a client sends
# cannot pass for a line, or a field, of the log.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $config = <<'END_CONFIG';
<Location "/mdm">
    SetHandler nanomdm
</Location>
<Location "/denied">
    SetHandler nanomdm
    Require all denied
</Location>
@api@
<Location "/open/">
    SetHandler nanomdm-api
</Location>
<Location "/version">
    SetHandler nanomdm-version
</Location>
<Location "/content">
    Require mdm-enrolled
</Location>
END_CONFIG

for my $without ([], ['unique_id']) {
    my $kind  = @$without ? 'without mod_unique_id' : 'with mod_unique_id';
    my $httpd = server(NanoMDM::Httpd->new(config => $config, without => $without));
    ok($httpd->start, "$kind: starts") or diag($httpd->log);
    my $device = enroll(device());
    my %seen;
    my $n = 0;
    for my $case (
        [200, 'a report',             sub { report($device, -path => $_[0]) }, '/mdm'],
        [400, 'an unknown device',    sub { report(device(), -path => $_[0]) }, '/mdm'],
        [400, 'no signature',         sub { request(PUT => $_[0], body => 'x') }, '/mdm'],
        [400, 'no plist',             sub { send_message($device, 'x/y', 'x', path => $_[0]) }, '/mdm'],
        [405, 'GET',                  sub { request(GET => $_[0]) }, '/mdm'],
        [400, 'a refused device',     sub { report($device, -path => $_[0]) }, '/denied'],
        [200, '/version',             sub { request(GET => $_[0]) }, '/version'],
        [405, 'POST /version',        sub { request(POST => $_[0], body => 'x') }, '/version'],
        [401, 'the API',              sub { api(PUT => $_[0], 'x', base => '', user => '') }, '/v1/enqueue/x'],
        [400, 'the API',              sub { api(PUT => $_[0], 'x', base => '') }, '/v1/enqueue/x'],
        [404, 'the API',              sub { api(PUT => $_[0], 'x', base => '') }, '/v1/none'],
        [403, 'an open API',          sub { api(PUT => $_[0], 'x', base => '') }, '/open/enqueue/x'],
        [400, 'content',              sub { request(GET => $_[0]) }, '/content'],
    ) {
        my ($status, $name, $call, $path) = @$case;
        my $marked = "$path?n=" . ++$n;
        my $r = $call->($marked);
        is_status($r, $status, "$name: $status");
        my $id = $r->{headers}{'x-trace-id'} // '';
        like($id, qr/^[\w\@-]{8,}$/, '… X-Trace-ID, once');
        ok(!$seen{$id}++, '… its own');
        my $logged = eventually { $httpd->access_log =~ /\Q$marked\E HTTP\S+ $status id=(\S+)/ ? $1 : undef };
        is($logged, $id, '… and in the access log');
    }
    my $r = request(GET => '/version', headers => ['X-Trace-ID' => 'FORGED', 'UNIQUE_ID' => 'FORGED']);
    unlike($r->{headers}{'x-trace-id'}, qr/FORGED/, "a client's own is not taken over");

    # injection, by what is logged at info
    my $mark = log_mark();
    for my $status ("Idle\n[forged] line", "x\r\nforged: y", "Idle\" id=\"FORGED\" x=\"", "x\x1b[31mred") {
        my $body = report_plist($device, Status => $status);
        $body =~ s/\r/&#13;/g;
        like(send_message($device, 'x/y', $body)->{status}, qr/^(200|400)$/, 'a Status to fool the log')
    }
    my $evil = "x\" id=\"FORGED\"\n[forged] line";
    send_message($device, 'x/y', report_plist($device, Status => 'Error', CommandUUID => $evil));
    checkin(device(udid => "A\" id=\"FORGED\" x=\""), 'Authenticate');
    checkin(device(serial => "A\" id=\"FORGED\" x=\""), 'Authenticate');
    my ($command) = command_plist("X\" id=\"FORGED\"\n[forged]", CommandUUID => "$evil-" . uuid());
    api(PUT => "enqueue/$device->{id}?nopush=1", $command);
    api(PUT => 'enqueue/x%0A[forged]?nopush=1', $command);
    request(PUT => '/mdm', body => 'x', headers => ['Mdm-Signature' => 'x" id="FORGED"']);
    log_like($mark, qr/Connect/, 'the messages are logged');
    log_unlike($mark, qr/^\s*\[?forged/m, '… none makes a line of its own');
    log_unlike($mark, qr/[^\\]" id="FORGED"/, '… nor a field');
    log_unlike($mark, qr/[\x00-\x09\x0b-\x1f]/, '… nor any control character');
    my @odd = grep { !/^\[(Mon|Tue|Wed|Thu|Fri|Sat|Sun) / } split /\n/, log_since($mark);
    is("@odd", '', '… every line is one of httpd');
    is_status(report($device), 200, 'and the server goes on');
    $httpd->stop;
}

done_testing;
