# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Declaration servers that keep a device waiting: 10 seconds to connect and 30 in all are the end of
# it, and they do not take the threads that everything else needs. Likewise a server that does not
# unlock an escrow key. All at the same time.
#
# Databases: sqlite3 (none is waited for)
# MPMs: event worker

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET ();
use Time::HiRes qw(sleep time);

use NanoMDM::Receiver ();
use NanoMDM::Test;

# One whose queue of connections is full: no SYN is answered.
my $full = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1) or die $!;
listen $full, 0 or die $!;
my @queue = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0) } 1 .. 4;

my %rule = (
    silent  => [delay => 3600],
    headers => [raw => "HTTP/1.1 200 OK\r\n", piece => "X-Name: value\r\n", every => 1],
    body    => [raw => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", piece => 'x', every => 1],
);
my %url = (connect => 'http://127.0.0.1:' . $full->sockport . '/');
my %receiver = map { ($_ => NanoMDM::Receiver->new) } sort keys %rule;
for my $name (sort keys %rule) {
    $receiver{$name}->answer(@{ $rule{$name} });
    $url{$name} = $receiver{$name}->url('/');
}

my $apple = NanoMDM::Receiver->new(tls => 'server', client_ca => 'ca');
my $apple_url = $apple->url('/unlock');
$apple->answer(delay => 3600);

my $hosts = join '', map { <<"END_HOST" } sort keys %url;
<VirtualHost 127.0.0.1:\@${_}_port\@>
    NanoMDMDeclarativeManagement $url{$_}
</VirtualHost>
END_HOST
my $roomy = NanoMDM::Httpd->new(ports => [sort keys %url], config => <<"END_CONFIG");
NanoMDMEscrowKeyUnlockURL $apple_url ca=\@pki\@/other_ca.pem
\@api\@
<Location "/mdm">
    SetHandler nanomdm
</Location>
$hosts
END_CONFIG
my $crowded = NanoMDM::Httpd->new(config => <<"END_CONFIG");
ThreadsPerChild 4
MaxRequestWorkers 4
NanoMDMDeclarativeManagement $url{silent}
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
my %device;
for my $httpd ($roomy, $crowded) {
    server($httpd);
    ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
    $device{$httpd} = enroll(device());
}

# What a message is answered with, and after how many seconds.
sub timed {
    my ($code) = @_;
    my $since = time;
    return join ' ', $code->()->{status}, time - $since;
}
sub declarative {
    my ($httpd, $name) = @_;
    return timed(sub { checkin($device{$httpd}, 'DeclarativeManagement', Endpoint => 'tokens',
        -host => $httpd->port($name), -timeout => 50) });
}
my $topic = 'com.apple.mgmt.External.' . lc uuid();
my $cert = pki->issue("push-$topic", issuer => 'ca', subject => "/UID=$topic/CN=APSP");
is_status(api(PUT => 'pushcert', slurp(pki->cert($cert)) . slurp(pki->key($cert)), host => $roomy->port), 200, 'a push certificate');
sub unlock {
    return timed(sub { api(POST => 'escrowkeyunlock', "topic=$topic&serial=s&productType=p&escrowKey=k&orgName=o&guid=g",
        headers => ['Content-Type' => 'application/x-www-form-urlencoded'], host => $roomy->port, timeout => 50) });
}
# Three seconds later, when the others wait.
sub idle {
    my ($httpd) = @_;
    sleep 3;
    return timed(sub { report($device{$httpd}, -host => $httpd->port) });
}
# One test: this answer, after so many seconds.
sub is_timed {
    my ($said, $status, $from, $to, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($given, $seconds) = split ' ', $said;
    return ok($given eq $status && $seconds >= $from && $seconds <= $to, $name) || diag($said);
}

my @names = sort keys %url;
my $mark = log_mark();
my @said = at_once(
    \&unlock, (map { my $name = $_; sub { declarative($roomy, $name) } } @names), sub { idle($roomy) },
    (sub { declarative($crowded) }) x 6, sub { idle($crowded) });

is_timed(shift @said, 502, 25, 40, 'a server that does not unlock: 502 in time');
for my $name (@names) {
    is_timed(shift @said, 502, $name eq 'connect' ? (9, 20) : (25, 40), "a server that is slow to $name: 502 in time");
}
is_timed(shift @said, 200, 0, 8, '… while an Idle report is answered at once');

my @crowd = sort { (split ' ', $a)[1] <=> (split ' ', $b)[1] } @said[0 .. 5];
is_timed($_, 502, 0, 8, 'six at once, of four threads: some get 502 at once') for @crowd[0 .. 3];
is_timed($_, 502, 25, 40, '… half of the threads wait') for @crowd[4 .. 5];
is_timed($said[6], 200, 0, 8, '… an Idle report is answered at once');
my @told = log_since($mark) =~ /:error\].*too many messages wait for the declaration server already.*/g;
is(scalar @told, 1, '… logged once');
like($told[0], qr/enrollment "\Q$device{$crowded}{id}\E"/, '… with an id');
is($receiver{silent}->count, 3, '… nobody else was asked');

$receiver{silent}->answer(status => 200);
is_timed(declarative($crowded), 200, 0, 8, 'it speaks again');
$_->stop for $roomy, $crowded;
done_testing;
