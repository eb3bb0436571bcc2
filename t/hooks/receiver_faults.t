# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Receivers of webhooks with the wrong certificate, replies without end, and one that says nothing:
# what is not known to have arrived comes again, what is does not, and nobody else's events wait.
#
# Databases: sqlite3 (it is of no matter which)
# MPMs: event worker

use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;
use Time::HiRes qw(time);

my %receiver = (
    silent    => NanoMDM::Receiver->new,
    unknown   => NanoMDM::Receiver->new(tls => 'self_signed'),
    elsewhere => NanoMDM::Receiver->new(tls => 'elsewhere'),
    large     => NanoMDM::Receiver->new,
    endless   => NanoMDM::Receiver->new,
    headers   => NanoMDM::Receiver->new,
);
my @names = sort keys %receiver;
my $hooks = join '', map { my $url = $receiver{$_}->url;
    "NanoMDMWebhook $url topics=mdm.Connect" . ($receiver{$_}{tls} ? " ca=\@pki\@/other_ca.pem\n" : "\n") } @names;
my $httpd = server(NanoMDM::Httpd->new(config => <<"END_CONFIG"));
$hooks
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my ($first, $second) = map { enroll(device()) } 1 .. 2;

my $body = "HTTP/1.1 200 OK\r\n\r\n";
$receiver{silent}->answer(match => 'SILENCE', status => 200, delay => 3600);
$receiver{large}->answer(status => 200, size => 100 * 1024 * 1024);
$receiver{endless}->answer(raw => $body, piece => 'x' x 65536);
$receiver{headers}->answer(raw => "HTTP/1.1 200 OK\r\n", piece => 'X-Long: ' . 'x' x 1000 . "\r\n");

sub say_something {
    my ($device, $text) = @_;
    is_status(report($device, Status => 'Acknowledged', CommandUUID => $text), 200, "$text is reported");
    return;
}
# The events that a receiver got, or those of one enrollment: their UUIDs.
sub arrived {
    my ($name, $device) = @_;
    return join ' ', map { $_->{command_uuid} } grep { !$device || $_->{ids}{id} eq $device->{id} }
        map { $_->{inner} } $receiver{$name}->events;
}
# The name of a webhook in the log, and what is said about it.
sub logged {
    my ($mark, $name, $pattern, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $url = $receiver{$name}->url;
    return log_like($mark, qr/webhook \Q$url\E: an event of enrollment .* was not delivered and will be tried again: $pattern/, $what);
}

my ($mark, $since) = (log_mark(), time);
say_something($first, 'SILENCE');
say_something($first, 'BEHIND');
say_something($second, 'OTHERS');

ok((eventually { arrived('silent', $second) eq 'OTHERS' } 10), 'a silent receiver: what others say arrives');
is(arrived('silent', $first), 'SILENCE', '… one waits for it');

for my $name (qw(large endless)) {
    ok((eventually { split(' ', arrived($name)) == 3 } 20), "a $name reply with status 200: all arrive");
    is(arrived($name, $first), 'SILENCE BEHIND', '… once, in order');
}
logged($mark, 'headers', 'a reply with more than 65536 bytes of headers', 'headers without end: no success');

for my $case (['unknown', 'SSL certificate problem', 'of an unknown authority'], ['elsewhere', 'SSL: .*subject', 'of another host']) {
    my ($name, $problem, $what) = @$case;
    logged($mark, $name, $problem, "a certificate $what: logged");
    is($receiver{$name}->count, 0, '… it is told nothing');
}
cmp_ok(db_value('SELECT count(*) FROM mdm_webhook_outbox WHERE webhook = ?', $receiver{$_}->url), '==', 3, "$_: all wait")
    for qw(unknown elsewhere);
for my $name (qw(unknown elsewhere)) {
    $receiver{$name}->down;
    $receiver{$name}{tls} = 'server';
    $receiver{$name}->up;
}
$receiver{headers}->answer(status => 200);
for my $name (qw(unknown elsewhere)) {
    ok((eventually { split(' ', arrived($name)) == 3 } 30), "the right certificate for $name: all arrive");
    is(arrived($name, $first), 'SILENCE BEHIND', '… once, in order');
}
ok((eventually { arrived('headers', $first) =~ /BEHIND$/ } 30), 'less headers: all arrive');

# its 30 seconds are over
ok((eventually { arrived('silent', $first) eq 'SILENCE SILENCE' } 45), 'a silent receiver: it is tried again');
cmp_ok(time - $since, '>', 25, '… after 30 seconds');
logged($mark, 'silent', 'Operation timed out', '… logged');
$receiver{silent}->answer(status => 200);
$receiver{silent}->down;    # which ends the second attempt
$receiver{silent}->up;
ok((eventually { arrived('silent', $first) =~ /^SILENCE SILENCE SILENCE BEHIND$/ } 20), '… and arrives once it speaks')
    or diag(arrived('silent', $first));
is(scalar(split ' ', arrived($_)), 3, "$_: nothing came again") for qw(large endless);
$httpd->stop;
done_testing;
