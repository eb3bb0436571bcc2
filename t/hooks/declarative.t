# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# The declarative management hook: what is asked, which answers reach the device, keys, endpoints that
# a device must not choose, and servers that misbehave.
use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;
use Time::HiRes qw(time);

my $server = NanoMDM::Receiver->new;
my $secure = NanoMDM::Receiver->new(tls => 'server');
my $wrong  = NanoMDM::Receiver->new(tls => 'self_signed');
my $elsewhere = NanoMDM::Receiver->new(tls => 'elsewhere');
my $events = NanoMDM::Receiver->new;
my ($url, $secure_url, $wrong_url, $elsewhere_url)
    = ($server->url('/dm'), map { $_->url('/') } $secure, $wrong, $elsewhere);
my $events_url = $events->url;
my $config = <<"END_CONFIG";
NanoMDMDatabasePool max=2
NanoMDMWebhook $events_url topics=mdm.DeclarativeManagement
NanoMDMDeclarativeManagement $url send-key=file:\@scratch\@/dm-send.key recv-key=receive
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
<VirtualHost 127.0.0.1:\@plain_port\@>
    NanoMDMDeclarativeManagement $url
</VirtualHost>
<VirtualHost 127.0.0.1:\@secure_port\@>
    NanoMDMDeclarativeManagement $secure_url ca=\@pki\@/other_ca.pem
</VirtualHost>
<VirtualHost 127.0.0.1:\@untrusted_port\@>
    NanoMDMDeclarativeManagement $secure_url
</VirtualHost>
<VirtualHost 127.0.0.1:\@wrong_port\@>
    NanoMDMDeclarativeManagement $wrong_url ca=\@pki\@/other_ca.pem
</VirtualHost>
<VirtualHost 127.0.0.1:\@elsewhere_port\@>
    NanoMDMDeclarativeManagement $elsewhere_url ca=\@pki\@/other_ca.pem
</VirtualHost>
END_CONFIG
spew(var('scratch') . '/dm-send.key', "send\n");
my $httpd = server(NanoMDM::Httpd->new(config => $config, ports => [qw(plain secure untrusted wrong elsewhere)]));
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

my $device = enroll(device());
my $user   = enroll(device(parent => $device));

sub declarative {
    my ($who, $endpoint, %o) = @_;
    my $data = delete $o{data};
    return checkin($who, 'DeclarativeManagement', Endpoint => $endpoint,
        defined $data ? (Data => data($data)) : (), map { ("-$_" => $o{$_}) } keys %o);
}

# The flags of these processes' sockets that are connected to a port of the loopback.
sub socket_flags {
    my ($port, @pids) = @_;
    my $peer = sprintf '0100007F:%04X', $port;
    my %inode = map { my @column = split; $column[2] eq $peer ? ("socket:[$column[9]]" => 1) : () }
        split /\n/, slurp('/proc/net/tcp');
    return map { oct slurp($_ =~ s/fd/fdinfo/r) =~ s/.*^flags:\s+(\d+).*/0$1/msr }
        grep { $inode{ readlink($_) // '' } } map { glob "/proc/$_/fd/*" } @pids;
}
sub last_request { return ($server->requests)[-1] }
my @signed = (headers => ['X-Hmac-Signature' => NanoMDM::Receiver::hmac('receive', '{"a":1}'),
    'Content-Type' => 'text/plain'], body => '{"a":1}');

# what is asked
$server->answer(status => 200, @signed);
my $r = declarative($device, 'declaration-items');
is_status($r, 200, 'GET');
is($r->{body}, '{"a":1}', '… the body');
is($r->{headers}{'content-type'}, 'application/json', '… its type');
my $q = last_request();
is("$q->{method} $q->{path}", 'GET /dm/declaration-items', '… the request');
is($q->{body}, '', '… without a body');
is($q->{headers}{'x-enrollment-id'}, $device->{id}, '… id');
is($q->{headers}{'x-enrollment-type'}, 'Device', '… type');
is($q->{headers}{'x-enrollment-parentid'}, undef, '… no parent');
is($q->{headers}{'x-hmac-signature'}, NanoMDM::Receiver::hmac('send', ''), '… HMAC of nothing');
my $status = '{"StatusItems":{}}';
$r = declarative($user, 'status', data => $status);
is_status($r, 200, 'PUT');
$q = last_request();
is("$q->{method} $q->{path} $q->{body}", "PUT /dm/status $status", '… the request');
is($q->{headers}{'content-type'}, 'application/json', '… its type');
is($q->{headers}{'x-enrollment-id'}, $user->{id}, '… id');
is($q->{headers}{'x-enrollment-type'}, 'User', '… type');
is($q->{headers}{'x-enrollment-parentid'}, $device->{id}, '… parent');
is($q->{headers}{'x-hmac-signature'}, NanoMDM::Receiver::hmac('send', $status), '… HMAC');
declarative($device, 'tokens') for 1 .. 3;
my @ids = map { $_->{id} } $server->requests;
is(scalar keys %{ { map { ($_ => 1) } @ids } }, 1, 'one connection for all') or diag("@ids")
    unless var('mpm') eq 'prefork';    # whose children have their own

# answers
for my $case (
    [200, 200, @signed], [204, 200], [404, 404], [400, 400], [410, 410], [429, 429], [418, 418],
    [401, 502], [403, 502], [407, 502], [500, 502], [503, 502], [301, 502], [307, 502], [201, 502],
) {
    my ($given, $expected, @rule) = @$case;
    my ($n, $asked) = ($events->count, $server->count);
    $server->answer(status => $given, @rule ? @rule
        : (body => $given == 204 ? '' : 'secret of the server', headers => [Location => $server->url('/elsewhere')]));
    $r = declarative($device, 'tokens');
    is_status($r, $expected, "answer $given");
    unlike($r->{body}, qr/secret/, '… without its body');
    is($r->{body}, '', '… but empty') if $expected < 500 && $given != 200;
    is($server->count, $asked + 1, '… asked once, and not elsewhere');
    $expected == 502 or ok((eventually { $events->count > $n }), '… an event');
}

# the reply's HMAC
for my $case (
    ['none'], ['another', headers => ['X-Hmac-Signature' => NanoMDM::Receiver::hmac('other', '{"a":1}')]],
    ['of another body', headers => ['X-Hmac-Signature' => NanoMDM::Receiver::hmac('receive', '{}')]],
) {
    my ($name, @rule) = @$case;
    my $mark = log_mark();
    $server->answer(status => 200, body => '{"a":1}', @rule);
    is_status(declarative($device, 'tokens'), 502, "HMAC: $name");
    log_like($mark, qr/:error\].* does not have the right X-Hmac-Signature/, '… logged');
    is_status(declarative($device, 'tokens', host => 'plain'), 200, '… of no interest without a key');
}

# endpoints that lead elsewhere
$server->answer(status => 200, @signed);
my $n = $server->count;
eventually { db_value('SELECT count(*) FROM mdm_webhook_outbox WHERE webhook = ?', $events_url) == 0 } 20;
my $m = $events->count;
for my $endpoint ('..', '../x', 'a/../../x', '/x', '//127.0.0.1/x', $events->url, '%2e%2e/x', '..%2Fx',
    '..\\x', 'status?x=y', 'status#x', 'a%00b', '%', "a\nb", 'file:///etc/passwd', '%252e%252e%252fx')
{
    is_status(declarative($device, $endpoint), 400, "endpoint $endpoint");
}
is_status(checkin($device, 'DeclarativeManagement'), 400, 'no endpoint');
is($server->count, $n, 'nobody was asked');
is_status(declarative(device(), 'tokens'), 400, 'a stranger');
is($server->count, $n, '… is not asked for either');
is_status(declarative($device, 'declaration/asset/a b'), 200, 'a blank');
is(last_request()->{path}, '/dm/declaration/asset/a%20b', '… is escaped');
eventually { $events->count > $m };
is($events->count, $m + 1, 'no event of what was refused');

# another server's check-ins, replayed
$n = $server->count;
($m, my $body) = ($events->count, checkin_plist($device, 'DeclarativeManagement', Endpoint => 'tokens'));
$r = api(PUT => 'migration', $body, base => '/', headers => ['Content-Type' => 'application/x-apple-aspen-mdm-checkin']);
is_status($r, 200, 'by /migration');
is($r->{body}, '', '… an empty answer');
is($server->count, $n, '… nobody was asked');
is_status(declarative($device, 'tokens'), 200, 'another one');
eventually { $events->count > $m };
is($events->count, $m + 1, '… is the only event');

# a program that httpd starts does not inherit connections
my @flags = socket_flags($server->port, $httpd->children);
cmp_ok(scalar @flags, '>', 0, 'connections are kept');
is(scalar(grep { !($_ & 02000000) } @flags), 0, '… and closed when another program is run');

# TLS
$secure->answer(status => 200, @signed);
is_status(declarative($device, 'tokens', host => 'secure'), 200, 'TLS');
my $mark = log_mark();
$r = declarative($device, 'tokens', host => 'untrusted');
is_status($r, 502, 'TLS, by an unknown authority');
log_like($mark, qr/:error\].* id="\Q$device->{id}\E".* gave no answer: SSL certificate problem/, '… logged, with the id');
unlike($r->{body}, qr/SSL|certificate|127\.0\.0\.1|${\ $secure->port}/, '… which the device is not told');
is_status(declarative($device, 'tokens', host => 'wrong'), 502, 'TLS, a wrong certificate');
is($wrong->count, 0, '… is told nothing');
$mark = log_mark();
is_status(declarative($device, 'tokens', host => 'elsewhere'), 502, 'TLS, the certificate of another host');
log_like($mark, qr/gave no answer: SSL: .*subject/, '… logged');
is($elsewhere->count, 0, '… is told nothing');

# servers that misbehave
$server->answer(status => 200, size => 100 * 1024 * 1024);
$mark = log_mark();
is_status(declarative($device, 'tokens', host => 'plain'), 502, '100 MB');
log_like($mark, qr/a reply of more than \d+ bytes/, '… logged');
my $long = 'X-Long: ' . 'x' x 1000 . "\r\n";
for my $case (
    ['1 MB of headers', raw => "HTTP/1.1 200 OK\r\n" . $long x 1000 . "Content-Length: 0\r\n\r\n"],
    ['headers without end', raw => "HTTP/1.1 200 OK\r\n", piece => $long x 10],
    ['preliminary answers without end', raw => '', piece => "HTTP/1.1 100 Continue\r\n\r\n" x 100],
    ['trailers without end', raw => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", piece => $long x 10],
) {
    my ($name, %rule) = @$case;
    $server->answer(%rule);
    $mark = log_mark();
    my $since = time;
    is_status(declarative($device, 'tokens', host => 'plain'), 502, $name);
    cmp_ok(time - $since, '<', 5, '… soon');
    log_like($mark, qr/a reply with more than 65536 bytes of headers/, '… logged');
}
$server->answer(raw => "nonsense\r\n\r\n");
is_status(declarative($device, 'tokens'), 502, 'nonsense');
$server->answer(raw => '');
is_status(declarative($device, 'tokens'), 502, 'closing early');
$server->answer(status => 200, delay => 5, @signed);
{
    # four at once wait, with two connections to the database
    my $since = time;
    my @said = at_once((sub { declarative($device, 'tokens')->{status} }) x 4,
        sub { select undef, undef, undef, 1; my $t = time; my $s = report($user)->{status}; $s . (time - $t < 2.5 ? ' at once' : ' late') });
    is("@said", '200 200 200 200 200 at once', 'no database connection is held while waiting');
}
$server->down;
$r = declarative($device, 'tokens');
is_status($r, 502, 'down');
unlike($r->{body}, qr/127\.0\.0\.1|${\ $server->port}/, '… which is all that the device is told');
$server->up;
$server->answer(status => 200, @signed);
is_status(declarative($device, 'tokens'), 200, 'and up again');

# the end of processes that wait
$server->answer(status => 200, delay => 2, @signed);
for my $case (
    ['a graceful restart: a message that waits gets its answer', qr/^200$/, sub { $httpd->signal('USR1') }],
    ['a killed process: it gets none', qr/^0$/, sub { kill 'KILL', $httpd->children }],
) {
    my ($name, $expected, $end) = @$case;
    my $n = $server->count;
    my ($said) = at_once(sub { declarative($device, 'tokens')->{status} },
        sub { eventually { $server->count > $n }; $end->(); '' });
    like($said, $expected, $name);
    is_status(declarative($device, 'tokens'), 200, '… and the next one its own');
}
$httpd->stop;
done_testing;
