# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Pushes while the world changes: the push service goes away, comes back, shows a wrong certificate;
# the push certificate is renewed; httpd restarts, stops, loses a child, a caller hangs up. No push is
# dropped that could have been sent, and every caller is answered in time.

use strict;
use warnings FATAL => 'all';

use POSIX ();
use Time::HiRes qw(sleep time);

use NanoMDM::Apnsd ();
use NanoMDM::Test;

my $apns = NanoMDM::Apnsd->new(delay => 50)->start;
my $conf = <<'END_CONFIG';
NanoMDMPushTimeout 4s
<Location "/mdm">
    SetHandler nanomdm
</Location>
@api@
<Location "/version">
    SetHandler nanomdm-version
</Location>
END_CONFIG
my $httpd = server(NanoMDM::Httpd->new(config => $apns->config . $conf));
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $topic = 'com.apple.mgmt.External.' . lc uuid();
is($apns->put_certificate($topic), 200, 'a push certificate');

# A user channel is an enrollment with a token of its own: cheaper than a device. All share one.
my $token  = NanoMDM::Apnsd::token('200');
my $device = enroll(device(topic => $topic, token => pack('H*', $token)));
my $silent = enroll(device(topic => $topic, token => pack('H*', NanoMDM::Apnsd::token('silence'))));
my @id     = many_ids(1000);

# So many enrollments of this device, put into the database at once.
sub many_ids {
    my ($n) = @_;
    my $dbh = NanoMDM::Database::connect_to($httpd->{dsn} // "dbi:SQLite:dbname=$httpd->{database}");
    my @ids = map { sprintf '%s:%s-%05d', $device->{id}, uuid(), $_ } 1 .. $n;
    $dbh->begin_work;
    for my $id (@ids) {
        $dbh->do('INSERT INTO users (id, device_id, token_update_at) VALUES (?, ?, CURRENT_TIMESTAMP)',
            undef, $id, $device->{id});
        $dbh->do('INSERT INTO enrollments (id, device_id, user_id, type, topic, push_magic, token_hex,'
            . ' last_seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, CURRENT_TIMESTAMP)',
            undef, $id, $device->{id}, $id, 'User', $topic, uuid(), $token);
    }
    $dbh->commit;
    return @ids;
}

# Push to these ids; the errors that there were, or "status" alone if there was no JSON.
sub push_all {
    my (@ids) = @_;
    my $r = api(POST => 'push', '{"ids":["' . join('","', @ids) . '"]}');
    my %errors;
    $errors{ $_->{push_error} }++ for grep { $_->{push_error} } values %{ $r->{json}{status} || {} };
    return join ', ', $r->{status}, map { "$errors{$_} x $_" } sort keys %errors;
}
# Each child finds out by itself that the service is back, after a pause that grows to 10 seconds:
# where there are many children, new ones find out at once.
sub forget { return var('mpm') eq 'prefork' ? $httpd->signal('USR1') : 1 }
sub push_one { return push_all($device->{id}) }

is(push_all(@id), '200', 'a thousand pushes');
is($apns->count($token, 1000), 1000, '… each once');

# the service is killed and comes back
$apns->stop('KILL');
my $begun = time;
like(push_one(), qr/^500, 1 x /, 'no service: an error of the id');
cmp_ok(time - $begun, '<', 5, '… in time');
$apns->start;
ok((eventually { push_one() eq '200' } 20), 'the service is back: pushes go on, without a reload');

# … and in the middle: what was in flight is sent again, within NanoMDMPushTimeout
$apns->stop;
$apns->start(streams => 100);    # 100 in each 50 ms: half a second for all
forget();
my $before = $apns->count($token);
my $caller = open(my $answer, '-|') // die "fork: $!";
if (!$caller) {
    print push_all(@id);
    close STDOUT;
    POSIX::_exit(0);
}
ok(eventually(sub { $apns->count($token) >= $before + 300 }, 10), 'in the middle of a thousand pushes');
$apns->stop('KILL');
cmp_ok($apns->count($token), '<', $before + 1000, '… the service is killed');
sleep 0.3;
$apns->start;
is(do { local $/; <$answer> }, '200', '… and comes back: all are sent');
close $answer;
cmp_ok($apns->count($token, $before + 1000), '>=', $before + 1000, '… each at least once');

# it shows a certificate that is not its own
$apns->stop;
$apns->start(server => 'rsa');
forget();
like(push_one(), qr/^500, 1 x .*certificate/i, 'a service with a wrong certificate: an error of the id');
log_like(0, qr/\[nanomdm:(?:error|warn)\].*certificate/, '… and a line in the log');
$apns->stop;
$apns->start;
ok((eventually { push_one() eq '200' } 20), 'the right one again: all is well');
forget();

# silent
$begun = time;
like(push_all($silent->{id}), qr/^500, 1 x .*(?:time|answer)/, 'a service that is silent: an error of the id');
cmp_ok(time - $begun, '<', 15, '… after NanoMDMPushTimeout, which is 30 s by default');

# GOAWAY in the middle
$apns->stop;
$apns->start(goaway => 300);
is(push_all(@id), '200', 'GOAWAY after each 300: all the same');
$apns->stop;
$apns->start;

# renewal in the middle
my @texts = at_once((sub { join ' ', map { push_all(@id) } 1 .. 5 }) x 2, sub {
    sleep 0.1;
    return join ' ', map { sleep 0.1; $apns->put_certificate($topic) } 1 .. 3;
});
is("@texts[0, 1]", join(' ', ('200') x 10), 'the certificate is renewed in the middle: no push is dropped');
is($texts[2], '200 200 200', '… three times');

# restarts: graceful ones wait for their requests, the others for the pusher's grace at most
my $patient = $apns->config . $conf =~ s/^NanoMDMPushTimeout .*/NanoMDMPushTimeout 30s/mr;
for my $case (
    ['a graceful restart', 'USR1'],
    ['a graceful stop',    'WINCH'],
    ['a restart',          'HUP',  $patient],
    ['a stop',             'TERM', $patient],
) {
    my ($name, $signal, $config) = @$case;
    if ($config || !$httpd->{pid}) {
        $httpd->stop;
        $httpd->configure($config);
        ok($httpd->start, 'starts again');
        is(push_one(), '200', '… and pushes');
    }
    my ($text, $seconds) = at_once(sub { push_all($id[0], $silent->{id}, @id[1 .. 499]) }, sub {
        sleep 0.7;
        return $httpd->signal($signal) // 'more than 15';
    });
    # otherwise httpd itself closes its connections
    like($text, qr/^207, 1 x /, "$name in the middle: what was answered is told, and what was not")
        unless $config;
    cmp_ok($seconds, '<', 7, "$name: the children end in time");
    if ($signal =~ /TERM|WINCH/) { $httpd->stop }
    else { ok((eventually { push_one() eq '200' } 10), '… and pushes go on') }
}
unlike($httpd->log, qr/SIGKILL|AH00052|exit signal/, 'no child crashed or had to be killed');
ok($httpd->start, 'starts again');

# a caller hangs up
my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->port) or die;
my $count = $apns->count($token);
require MIME::Base64;
print {$socket} "PUT /v1/push/" . join(',', @id[0 .. 99]) . " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    . 'Authorization: Basic ' . MIME::Base64::encode_base64('nanomdm:' . var('apikey'), '') . "\r\n\r\n";
close $socket;
ok(eventually { $apns->count($token) == $count + 100 }, 'a caller hangs up: the pushes are sent');
is(push_one(), '200', '… and others');

# a child is killed
my ($pid) = $httpd->children;
my ($text) = at_once(sub { push_all($silent->{id}) }, sub { sleep 0.5; kill 'KILL', $httpd->children; '' });
is($text, '0', 'the children are killed in the middle: no answer');
ok((eventually { push_one() eq '200' } 10), '… new ones push');
is_status(request(GET => '/version'), 200, '… and serve');
kill 'TERM', $httpd->{pid};
ok((eventually { !NanoMDM::Httpd::is_alive($httpd->{pid}) } 15), 'stops');
$apns->stop;

done_testing;
